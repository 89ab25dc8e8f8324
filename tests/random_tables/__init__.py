"""Random small tables, read by both parsers and by a slow, obvious reader: equal, or refused.

    python -m random_tables --count 1000000 --seed 7     # from the directory tests/
    python -m random_tables --seed 7 --only 4711         # one again, with its text

Table *n* of a seed is a function of the two alone, so that what is found is found again.

- `generator`: the tables: how they are written, what is in their cells, and what is wrong with them.
- `reference`: the obvious reader.
- `comparison`: what all readers must agree in, and the run of many.
"""
