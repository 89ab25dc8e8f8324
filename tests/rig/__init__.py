"""What the tests are built of: a shell in memory for the lease table, real processes to be killed, waiting for
conditions.
"""
