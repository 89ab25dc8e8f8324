"""An inference says what it saw and why; what the beginning of a file does not show is looked for further on."""

from __future__ import annotations

import gzip

import pytest

from shmlease.errors import IngestError
from shmlease.text.inference import infer


def _types(inference):
    return {each.name: each.type for each in inference.schema.fields}


def _genome(chromosomes, rows=3_000, header=""):
    return header + "".join(f"{name}\t{n * 7}\t{n % 90 / 7:.3f}\n" for name in chromosomes for n in range(rows))


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_chromosomes_do_not_become_integers_because_x_comes_late(write, read, pack):
    path = write(pack(_genome([*map(str, range(1, 20)), "X"]).encode()))
    found = infer(path)
    assert _types(found) == {"column_0": "S2", "column_1": "i4", "column_2": "f8"}
    assert read(path, found.schema).bad == []


def test_a_name_that_stands_only_in_the_middle_is_seen(write):
    path = write(_genome([*map(str, range(1, 10)), "MT", *map(str, range(10, 20))]))
    assert _types(infer(path))["column_0"] == "S2"
    late = "".join(f"{n}\t{'NA' if 40_000 < n < 44_000 else n}\n" for n in range(100_000))
    assert _types(infer(write(late)))["column_1"] == "f8"


def test_chromosomes_without_a_name_stay_text(write):
    assert _types(infer(write(_genome(["1", "2", "3"], rows=100))))["column_0"] == "S1"
    assert _types(infer(write(_genome(["7"], rows=5, header="chrom\tpos\tvalue\n"))))["chrom"] == "S1"


def test_a_header_gives_the_names(write):
    found = infer(write("Station name,tmax (C),n\nA,1.5,2\nB,,3\n"))
    assert _types(found) == {"Station_name": "S1", "tmax_C": "f8", "n": "i4"}
    assert found.schema.header
    assert found.schema.missing == ("",)


def test_codes_with_leading_zeros_stay_text(write):
    assert _types(infer(write("00123\t1\n00456\t2\n")))["column_0"] == "S5"


def test_integers_with_missing_values_become_floats_with_a_reason(write):
    found = infer(write("a,b\n1,x\nNA,y\n3,z\n"))
    assert _types(found)["a"] == "f8"
    assert any("integers with missing values" in reason for reason in found.reasons)
    assert "a:f8" in str(found)


def test_large_integers_get_64_bits(write):
    assert _types(infer(write("1\t2\n9999999999\t3\n")))["column_0"] == "i8"


@pytest.mark.parametrize("delimiter", ["\t", ",", ";", "|"])
def test_the_delimiter_is_the_one_that_cuts_lines_alike(write, delimiter):
    text = "".join(delimiter.join((f"a b{n}", str(n), "c=1")) + "\n" for n in range(50))
    assert infer(write(text)).schema.delimiter == delimiter


def test_blanks_delimit_where_nothing_else_does(write, read):
    path = write("".join(f"   {n}   {n / 3:.2f}  x\n" for n in range(100)))
    found = infer(path)
    assert found.schema.delimiter is None
    assert len(read(path, found.schema).rows) == 100


def test_quotes_comments_cr_and_latin_1_are_seen(write, read):
    path = write('# made by x\rname,n\r"Müller, A",1\r"B",2\r'.encode("latin-1"))
    found = infer(path)
    assert (found.schema.quote, found.schema.comments, found.schema.encoding) == ('"', ("#",), "latin-1")
    assert read(path, found.schema).rows.tolist() == [("Müller, A".encode("latin-1"), 1), (b"B", 2)]


def test_what_was_not_seen_becomes_bad_rows_and_not_other_values(write, read):
    lines = [f"{n}\t{n}\n" for n in range(300_000)]
    found = infer(write("".join(lines)))
    lines[100_003] = "surprise\t1\n"
    bad = read(write("".join(lines)), found.schema).bad
    assert [(each.line, each.text) for each in bad] == [(100_004, "surprise")]


def test_a_file_of_comments_is_no_table(write):
    with pytest.raises(IngestError, match="no line of data"):
        infer(write("# nothing\n"))
