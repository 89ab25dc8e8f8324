"""A schema is a plain value: built from a line of text, checked at once, and carried through JSON and pickle."""

from __future__ import annotations

import pickle
import re

import msgspec
import numpy as np
import pytest

from shmlease.errors import DTypeError, IngestError
from shmlease.text.formats import FORMATS, format_named
from shmlease.text.schema import Field, Schema, parse_dtype


def test_fields_are_read_from_one_line():
    assert parse_dtype(" chr:S10, pos:i4 ,af:i2=-1,px:64u1") == (
        Field("chr", "S10"),
        Field("pos", "i4"),
        Field("af", "i2", fill="-1"),
        Field("px", "64u1"),
    )


def test_the_dtype_of_the_rows_is_packed():
    schema = Schema().with_dtype("chr:S10,pos:i4,pct:f4,c:i4,t:i4")
    assert schema.dtype == np.dtype([("chr", "S10"), ("pos", "i4"), ("pct", "f4"), ("c", "i4"), ("t", "i4")])
    assert schema.dtype.itemsize == 26


def test_a_numpy_dtype_makes_the_same_fields():
    dtype = np.dtype([("a", ">i4"), ("b", "f8", 3), ("c", "U5"), ("d", "M8[D]"), ("e", "?")])
    schema = Schema().with_dtype(dtype)
    assert schema.dtype == np.dtype([("a", ">i4"), ("b", "f8", 3), ("c", "U5"), ("d", "i8"), ("e", "?")])
    assert [each.declared for each in schema.fields] == [dtype[name] for name in dtype.names]


def test_a_field_is_written_as_it_is_read():
    texts = [
        "t:M8[D](%d.%m.%Y)",
        "s:enum(a b|c, d)?",
        "x:f8(percent)=-1%",
        "n:i8?",
        "e:M8[ms](epoch s)",
        "h:u2(hex)",
        "w:m8[s]=NaT",
    ]
    fields = parse_dtype(",".join(texts))
    assert [str(each) for each in fields] == texts
    assert [each.format for each in fields] == ["%d.%m.%Y", "a b|c, d", "percent", "", "epoch s", "hex", ""]
    assert Schema(fields=fields).names == ["t", "s", "s_missing", "x", "n", "n_missing", "e", "h", "w"]


def test_what_a_reader_needs_beside_the_types_is_an_attribute():
    schema = Schema().with_dtype("t:M8[ms],d:m8[s],p:f8(percent),n:i4?,k:i2=-1,s:enum(a|b)")
    assert schema.attributes == {
        "t.units": "ms",
        "t.epoch": "1970-01-01T00:00:00",
        "d.units": "s",
        "p.units": "%",
        "n.mask": "n_missing",
        "n.fill": "0",
        "k.fill": "-1",
    }
    assert schema.labels == {"s": ("a", "b")}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x:i4?,x_missing:i4", "two fields are named 'x_missing'"),
        ("x:M8", "unit none is not one of Y, M, W, D"),
        ("x:M8[25us]", "write one, such as M8"),
        ("x:M8[D](dd.mm.yyyy)", "is neither a format such as %d.%m.%Y nor epoch"),
        ("x:M8[D](%d.%m)", "has no year"),
        ("x:M8[D](%Y %Q)", "%Q is not known"),
        ("x:M8[D](%Y %Y)", "has a part twice"),
        ("x:m8[s](%H)", "it takes no format"),
        ("x:f8(hex)", "f8 has no format 'hex'; it has percent"),
        ("x:enum(a|a)", "different labels"),
        ("x:enum", "different labels"),
        ("x:f8?", "missing values need no ?"),
    ],
)
def test_a_type_or_format_that_is_none_says_what_there_is(text, message):
    with pytest.raises(DTypeError, match=re.escape(message)):
        Schema().with_dtype(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("chr", "'chr' in 'chr' is not name:type"),
        ("chr:S10,,pos:i4", "'' in 'chr:S10,,pos:i4' is not name:type"),
        ("chr:S10,pos:i5", "field 'pos': 'i5' is not a numpy type"),
        ("chr:nonsense", "field 'chr': 'nonsense' is not a numpy type"),
        ("x:O", "field 'x': text cannot be read into 'O'"),
        ("x:V8", "field 'x': text cannot be read into 'V8'"),
        ("x:i4,x:i4", "two fields are named 'x'"),
    ],
)
def test_a_wrong_dtype_says_which_part(text, message):
    with pytest.raises(DTypeError) as caught:
        Schema().with_dtype(text)
    assert str(caught.value).startswith(message)


def test_a_dtype_without_names_is_refused():
    with pytest.raises(DTypeError, match="no named fields"):
        Schema().with_dtype(np.dtype("f8"))


def test_columns_are_one_for_each_field():
    schema = Schema().with_dtype("a:i4,b:i4", columns=[3, "name"])
    assert [each.source for each in schema.fields] == [3, "name"]
    with pytest.raises(DTypeError, match="1 columns are named for 2 fields"):
        Schema().with_dtype("a:i4,b:i4", columns=[3])


def test_a_stand_in_must_be_a_value_of_its_field(parse):
    with pytest.raises(DTypeError, match="field 'a': its value for missing cells: 300 is outside int8"):
        parse("1\n", "a:i1=300")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"delimiter": "::"}, "delimiter '::' is not one ASCII character"),
        ({"delimiter": "\n"}, "is not one ASCII character"),
        ({"delimiter": ""}, "separates nothing"),
        ({"quote": "“"}, "quote '“' is not one ASCII character"),
        ({"delimiter": ",", "quote": ","}, "cannot be both"),
        ({"encoding": "utf-16"}, "encoding 'utf-16' cannot be read"),
        ({"encoding": "klingon"}, "encoding 'klingon' cannot be read"),
        ({"after_number": "["}, "is not a regular expression"),
    ],
)
def test_wrong_options_are_refused_at_once(options, message):
    with pytest.raises(IngestError) as caught:
        Schema(**options)
    assert message in str(caught.value)


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_every_layout_travels_through_json_and_pickle(name):
    schema = format_named(name)
    assert msgspec.json.decode(msgspec.json.encode(schema), type=Schema) == schema
    assert pickle.loads(pickle.dumps(schema)) == schema
    assert hash(schema) == hash(format_named(name))


def test_an_unknown_layout_lists_those_there_are():
    with pytest.raises(IngestError, match=r"did you mean 'bismark-cov'\? there are bismark-cov, "):
        format_named("bismarck")
