"""Named layouts: the tables that people have, each as a schema, so that one word on the command line reads them.

The positions of genomic layouts keep the convention of their file: Bismark coverage and ALLC count from 1, bedGraph from 0.
Names of chromosomes get 16 bytes, enough for the unplaced contigs of common assemblies; a longer one is an error that says
the length needed, and `fit_strings` finds it beforehand.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from shmlease.errors import IngestError
from shmlease.text.schema import Schema, parse_dtype

__all__ = ["LAYOUTS", "Layout", "layout"]


@dataclass(frozen=True, slots=True)
class Layout:
    """A schema with a name and a line that says what it reads."""

    name: str
    summary: str
    schema: Schema


def _layout(name: str, summary: str, dtype: str = "", columns: list[int | str] | None = None, **options: Any) -> Layout:
    schema = Schema(**options)
    return Layout(name, summary, schema.with_dtype(parse_dtype(dtype), columns) if dtype else schema)


LAYOUTS: dict[str, Layout] = {
    each.name: each
    for each in (
        _layout(
            "bismark-cov",
            "Bismark coverage (.cov): chromosome, start, end, percentage, methylated, unmethylated",
            "chr:S16,pos:i4,pct:f4,c:i4,t:i4",
            [0, 1, 3, 4, 5],
        ),
        _layout(
            "bedgraph-methylation",
            "methylation bedGraph, track line skipped: chromosome, start (from 0), end, percentage, methylated, unmethylated",
            "chr:S16,pos:i4,pct:f4,c:i4,t:i4",
            [0, 1, 3, 4, 5],
            comments=("track", "browser", "#"),
        ),
        _layout(
            "methylkit",
            "methylKit calls: chromosome, base, strand, coverage, percentages of C and T",
            "chr:S16,pos:i4,strand:S1,coverage:i4,freq_c:f4,freq_t:f4",
            ["chr", "base", "strand", "coverage", "freqC", "freqT"],
            header=True,
        ),
        _layout(
            "allc",
            "ALLC of single cells: chromosome, position, strand, context, methylated, coverage, flag",
            "chr:S16,pos:i4,strand:S1,context:S8,mc:i4,cov:i4,flag:i1",
        ),
        _layout(
            "gembs",
            "gemBS CpG calls as ENCODE publishes them: contig, positions, reference, call, flags, methylation, counts",
            "chr:S16,pos0:i4,pos1:i4,ref:S2,call:S2,flags:S32,meth:f4,non_conv:i4,conv:i4,support:i4,total:i4",
            list(range(11)),
            header=True,
            missing=("-",),
        ),
        _layout(
            "metoffice",
            "Met Office station series: prose skipped, --- missing, * and # after values counted and dropped, remarks kept",
            "year:i2,month:i1,tmax:f4,tmin:f4,frost_days:f4,rain:f4,sun:f4,remark:S32",
            list(range(8)),
            delimiter=None,
            skip_to="yyyy",
            header=True,
            skip_after_header=1,
            comments=("Site closed", "Site Closed"),
            missing=("---",),
            after_number=r"[*#$]|[A-Za-z][A-Za-z ]*",
            extra="join",
            short="missing",
        ),
        _layout(
            "tmy3",
            "NREL typical year (TMY3): station line skipped, -9900 and ? missing; time, irradiance and weather",
            "date:S10,time:S5,ghi:f4,dni:f4,dhi:f4,temperature:f4,dew_point:f4,humidity:f4,pressure:f4,"
            "wind_direction:f4,wind_speed:f4,albedo:f4",
            [
                *("Date (MM/DD/YYYY)", "Time (HH:MM)", "GHI (W/m^2)", "DNI (W/m^2)", "DHI (W/m^2)", "Dry-bulb (C)"),
                *("Dew-point (C)", "RHum (%)", "Pressure (mbar)", "Wdir (degrees)", "Wspd (m/s)", "Alb (unitless)"),
            ],
            delimiter=",",
            skip_lines=1,
            header=True,
            missing=("-9900", "?"),
            quote='"',
        ),
        _layout(
            "nsrdb",
            "NREL satellite irradiance (NSRDB PSM3) with its saved index: time, weather, irradiance",
            "index:i4,year:i2,month:i1,day:i1,hour:i1,minute:i1,temperature:f4,dew_point:f4,dhi:f4,dni:f4,ghi:f4,"
            "albedo:f4,pressure:f4,wind_direction:f4,wind_speed:f4",
            delimiter=",",
            header=True,
        ),
        _layout(
            "rdb",
            "USGS RDB: # comments, header, a line of column types; give the fields, or infer them",
            header=True,
            skip_after_header=1,
            comments=("#",),
        ),
        _layout(
            "csv",
            "comma-separated with a header and quotes; give the fields, or infer them",
            delimiter=",",
            header=True,
            quote='"',
        ),
        _layout("tsv", "tab-separated with a header; give the fields, or infer them", header=True),
        _layout("blanks", "columns between runs of blanks, no header; give the fields, or infer them", delimiter=None),
    )
}


def layout(name: str) -> Schema:
    """The schema of a named layout.

    Raises
    ------
    IngestError
        There is no layout of that name; the message lists those there are.
    """
    try:
        return LAYOUTS[name].schema
    except KeyError:
        raise IngestError(f"no layout is named {name!r}; there are {', '.join(LAYOUTS)}") from None
