"""An inference says what it saw and why; what the beginning of a file does not show is looked for further on."""

from __future__ import annotations

import gzip
import re

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rig.reading import read_table
from shmlease.errors import IngestError
from shmlease.text import column_types, sampling
from shmlease.text.header import open_table
from shmlease.text.inference import infer
from shmlease.text.times import read_times


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


_CHARACTERS = st.sampled_from(["a", "1", "2.5", "-", "\t", ",", ";", " ", '"', "\n", "\r", "#", "NA", "é", "٣", "9" * 25])
_TEXTS = st.lists(_CHARACTERS, max_size=40).map("".join) | st.text(max_size=20)


@given(_TEXTS.map(str.encode) | st.binary(max_size=30), st.booleans())
@example(b"1\n2\n3\t4\n", False)
@example(b"a,b\n" + b"9" * 5000 + b",1\n", False)
@example(b"x,x,x_2\n1,2,3\n", False)
@example(b"chr1\t1\ntrack x\n", False)
@example(b"%%MatrixMarket\n% 1\n", False)
@example(b'%%MatrixMarket\n"1,\n",2\n', False)
@example(b"%%MatrixMarket\n3 3 0\n", True)
@example(b"%%MatrixMarket matrix coordinate real general\n3 3 0\n", True)
@example(b"##fileformat=VCF\n", False)
@example(b"##gff-version 3\n##FASTA\n>a\nACGT\n", False)
@example(b"ncols 2\nnrows 1\n1 2\n", False)
@example("a,b\n1,2\n".encode("utf-16"), False)
def test_no_file_makes_an_inference_fail_in_another_way_than_in_words(tmp_path_factory, content, packed):
    path = tmp_path_factory.getbasetemp() / "any"
    path.write_bytes(gzip.compress(content) if packed else content)
    try:
        found = infer(path)
        read = read_table(path, found.schema)
    except IngestError as error:
        message = str(error)
    else:
        message = str(path)
        assert found.layout or len(read.rows) + len(read.bad) >= found.lines_seen
    assert str(path) in message


def test_line_ends_in_quotes_are_no_rows_however_long_the_file_is(write, read):
    text = "id,title,text\n" + "".join(f'{n},"a, ""b""","one\ntwo, {n}\n\nfour"\n' for n in range(20_000))
    path = write(text)
    found = infer(path)
    assert _types(found) == {"id": "i4", "title": "S6", "text": f"S{len('one..two, 19999...four') - 2}"}
    assert (found.schema.delimiter, found.schema.quote) == (",", '"')
    read_back = read(path, found.schema)
    assert (len(read_back.rows), read_back.bad) == (20_000, [])


def test_a_file_whose_lines_differ_is_no_schema_and_loses_no_row(write):
    for text in (
        "a\tb\nc\td\te\nf\tg\th\ti\n",
        "".join(f"{n}" + " 1" * (1 + n % 5) + "\n" for n in range(100)),
        "1\n2\n3\t4\n",
    ):
        with pytest.raises(IngestError, match="no delimiter gives 90% of the lines the same number of cells"):
            infer(write(text))


def test_the_delimiter_that_suits_the_header_too_is_taken(write):
    text = "datum;wert;anteil\n" + "".join(f"{n:02}.01.2020;{n},00;0,{n:03}\n" for n in range(1, 29))
    found = infer(write(text))
    assert (found.schema.delimiter, [each.name for each in found.schema.fields]) == (";", ["datum", "wert", "anteil"])


def test_track_lines_are_comments_in_the_smallest_file(write, read):
    path = write("track type=bedGraph\nchr1\t1\t2\t0\nchr1\t3\t4\t0.5\n")
    assert read(path, infer(path).schema).rows["column_3"].tolist() == [0, 0.5]


def test_a_schema_names_the_columns_it_was_proposed_for(write, read):
    found = infer(write("Wind speed,n,n\n1.5,2,3\n2.5,4,5\n"))
    assert [(each.name, each.source) for each in found.schema.fields] == [
        ("Wind_speed", "Wind speed"),
        ("n", 1),
        ("n_2", 2),
    ]
    found = infer(write("Wind speed,n\n1.5,2\n2.5,4\n"))
    assert "Wind_speed:f8 (column 'Wind speed')" in str(found)
    assert read(write("n,x,Wind speed\n7,0,8.5\n", "b"), found.schema).rows.tolist() == [(8.5, 7)]


def test_large_integers_with_missing_values_keep_every_digit(write, read):
    path = write("id,v\nNA,0\n9007199254740993,1\n9007199254740992,2\n")
    rows = read(path, infer(path).schema).rows
    assert rows["id"].tolist() == [0, 9007199254740993, 9007199254740992]
    assert rows["id_missing"].tolist() == [True, False, False]


def test_the_size_of_a_matrix_market_file_is_no_row(write, read):
    path = write("%%MatrixMarket matrix coordinate integer general\n%metadata\n300 200 3\n1 1 5\n300 7 6\n12 200 7\n")
    assert read(path, infer(path).schema).rows.tolist() == [(1, 1, 5), (300, 7, 6), (12, 200, 7)]


def test_a_header_that_ends_with_a_delimiter_has_a_column_without_a_name(write, read):
    path = write("a,b,\n1,2,\n3,4,\n")
    assert read(path, infer(path).schema).rows.tolist() == [(1, 2, b""), (3, 4, b"")]


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        (["true", "False", "TRUE"], "?"),
        (["T", "F", ""], "??"),
        (["T", "A", "F"], "S1"),
        (["T", "T"], "S1"),
        (["2020-01-02", "2020-02-29"], "M8[D]"),
        (["2020-01-02 03:04", "2020-01-02 03:04:05"], "M8[s]"),
        (["2020-01-02T03:04:05.123Z", "NaT"], "M8[ms]"),
        (["2020-01-02T03:04:05.1234567"], "M8[ns]"),
        (["2020-01-02T03:04:05Z", "2020-01-02T03:04:05"], "S20"),
        (["2020-01-02", "2020-13-02"], "S10"),
        (["31.12.2020", "01.01.2021"], "M8[D](%d.%m.%Y)"),
        (["31/12/2020 10:00", "01/01/2021 11:30"], "M8[s](%d/%m/%Y %H:%M)"),
        (["12/31/2020", "1/1/2021"], "M8[D](%m/%d/%Y)"),
        (["3/4/2020", "5/6/2020"], "S8"),
        (["10:20:30", "00:00:01.5"], "m8[ms]"),
        (["5%", "-0.5 %"], "f8(percent)"),
        (["0x1F", "0xff"], "i8(hex)"),
        (["1D+03", "2.5d-1"], "f8"),
        (["18446744073709551615", "0"], "u8"),
        (["18446744073709551616", "0"], "S20"),
        (["9007199254740993", "NA"], "i8?"),
        (["1,234", "5,678"], "S5"),
        (["1,234,567", "5,678"], "i4"),
        (["1.234,5", "5,678"], "f8"),
        (["0,5", "5,678"], "f8"),
        (["0,5", "1.5"], "S3"),
    ],
)
def test_the_type_is_the_one_that_all_cells_have(write, read, cells, kind):
    path = write("value;n\n" + "".join(f"{cell};{n}\n" for n, cell in enumerate(cells)))
    found = infer(path)
    assert str(found.schema.fields[0]) == f"value:{kind}"
    assert read(path, found.schema).bad == []


def test_where_two_readings_are_possible_the_reason_says_what_to_declare(write):
    found = infer(write("d;v\n3/4/2020;1,234\n5/6/2020;2,345\n"))
    assert [each for each in found.reasons if each.startswith(("d:", "v:"))] == [
        "d: S, since day and month cannot be told apart: declare M8[D](%d/%m/%Y) or M8[D](%m/%d/%Y)",
        "v: S, since '1,234' may have a decimal comma or not; say so (--decimal or --thousands)",
    ]


def test_a_line_of_units_is_neither_row_nor_header(write, read):
    path = write("depth,temp\nm,degC\n0,1.5\n1,2.5\n2,NA\n")
    found = infer(path)
    assert (found.schema.skip_after_header, found.schema.units) == (1, True)
    assert open_table(path, found.schema).attributes == (("depth.units", "m"), ("temp.units", "degC"))
    assert len(read(path, found.schema).rows) == 3


def test_names_with_several_blanks_between_them_are_those_of_the_columns(write, read):
    path = write("Station Name   Temp (C)   Wind\n" + "".join(f"A{n}   {n}   {2 * n}\n" for n in range(9)))
    found = infer(path)
    assert read(path, found.schema).rows.dtype.names == ("Station_Name", "Temp_C", "Wind")


def test_whether_there_is_a_header_is_said_either_way(write):
    assert any(each.startswith("header: a, b (numbers") for each in infer(write("a,b\n1,2\n")).reasons)
    assert "no header: line 1 looks like those below it" in infer(write("1,2\n3,4\n")).reasons


def test_what_is_given_is_obeyed(write, read):
    path = write("x;1,5\ny;2,5\n-;3,5\n")
    found = infer(path, given={"delimiter": ",", "header": False})
    assert [str(each) for each in found.schema.fields] == ["column_0:S3", "column_1:i4"]
    found = infer(path, given={"delimiter": ";", "header": True, "decimal": ",", "missing": ("-",)})
    assert [each.name for each in found.schema.fields] == ["x", "1_5"]
    found = infer(write("prose, prose\nmore\na,b\n1,2\n", "b"), given={"skip_lines": 2, "header": True, "delimiter": ","})
    assert read(write("prose\nmore\na,b\n1,2\n", "b"), found.schema).rows.tolist() == [(1, 2)]
    found = infer(write('a,b\n"1,5",2\n', "c"), layout="csv", given={"decimal": ","})
    assert read(write('a,b\n"1,5",2\n', "c"), found.schema).rows.tolist() == [(1.5, 2)]


def test_lengths_and_types_are_those_of_all_files(write):
    paths = [write("name,n\nab,1\n", "1"), write("n,name\n1.5,abcdef\n", "2"), write("name,n\nabc,x\n", "3")]
    assert _types(infer(paths[:1])) == {"name": "S2", "n": "i4"}
    assert _types(infer(paths[:2])) == {"name": "S6", "n": "f8"}
    assert _types(infer(paths)) == {"name": "S6", "n": "S3"}


_KINDS = [
    st.integers(-99, 99).map(str),
    st.integers(0, 99).map("{:03}".format),
    st.integers(2**53, 2**53 + 9).map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.sampled_from(["NA", "", "-", "-9999", "1e3", "01.50", "1,5", "1,234,567", "5%", "true", "F", "T", "1D2", "0x1f"]),
    st.dates().map(str),
    st.datetimes().map(str),
    st.text("abAB é", min_size=1, max_size=5),
]


@given(st.lists(st.tuples(st.sampled_from(_KINDS), st.sampled_from(_KINDS)), min_size=1, max_size=4), st.data())
def test_what_an_inference_did_not_see_comes_in_as_it_stands_or_is_malformed(tmp_path_factory, columns, data):
    """The head of a file says one thing, and what the sample leaves out says another: no value is changed."""
    rows = [[data.draw(seen) for seen, _ in columns] for _ in range(6)]
    rows += [[data.draw(unseen) for _, unseen in columns] for _ in range(3)]
    path = tmp_path_factory.getbasetemp() / "late"
    path.write_text("".join(";".join([f"r{n}", *row]) + "\n" for n, row in enumerate(rows)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling, "_HEAD_BYTES", sum(len(";".join(row)) + 4 for row in rows[:6]))
        patch.setattr(sampling, "_PART_BYTES", 0)
        patch.setattr(sampling, "_PLACES", 1)
        try:
            schema = infer(path).schema
        except IngestError:
            return
    read = read_table(path, schema)
    by_line = iter(read.rows.tolist())
    bad = {each.line for each in read.bad}
    names = schema.dtype.names
    for number, row in enumerate(rows, start=1):
        if number in bad or number <= schema.skip_lines + schema.header:
            continue
        values = dict(zip(names, next(by_line), strict=True))
        for each, cell in zip(schema.fields, [f"r{number - 1}", *row], strict=True):
            assert _stands_there(values[each.name], values.get(each.mask_name), cell, each, schema), (each, cell, values)


def _stands_there(value, is_missing, cell, field, schema):
    """Whether a value is what its cell says, as Python reads it."""
    if field.dtype.kind == "S":
        return value == cell.encode()
    if is_missing or cell in schema.missing or cell.strip() == "NaT":
        return is_missing if is_missing is not None else np.isnan(value) or value == -(2**63)
    if field.declared.kind == "b":
        return value == (cell.strip().lower() in {"true", "t", "yes", "y", "1"})
    if field.declared.kind == "M":
        return np.datetime64(value, np.datetime_data(field.declared)[0]) == np.datetime64(cell.strip())
    plain = cell.strip().rstrip("%")
    plain = plain.replace(schema.thousands, "") if schema.thousands else plain
    plain = plain.replace(schema.decimal, ".").lower().replace("d", "e") if "x" not in plain else str(int(plain, 16))
    if re.fullmatch(r"[+-]?0\d+.*", plain):
        return False
    return value == (int(plain) if re.fullmatch(r"[+-]?\d+", plain) else float(plain))


def test_the_forms_of_dates_are_tried_a_column_at_a_time(write, monkeypatch):
    """Cell by cell, a megabyte of words and dates took a quarter of a minute."""
    calls = []
    monkeypatch.setattr(column_types, "read_times", lambda *table: calls.append(len(table[1])) or read_times(*table))
    rows = "".join(f"a-{n},2024-01-{n % 28 + 1:02} 10:{n % 60:02}:00,{n}.5.2\n" for n in range(2_000))
    assert _types(infer(write(f"name,time,version\n{rows}"))) == {"name": "S6", "time": "M8[s]", "version": "S8"}
    assert len(calls) < 10
