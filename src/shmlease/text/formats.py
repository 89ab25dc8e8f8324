"""The formats that have a name: tables that people have, each as a schema, so that one word (`--layout`) reads them.

The positions of genomic layouts keep the convention of their file: Bismark coverage and ALLC count from 1, bedGraph from 0.
Names of chromosomes get 16 bytes, enough for the unplaced contigs of common assemblies; a longer one is an error that says
the length needed, and `fit_strings` finds it beforehand.
"""

from __future__ import annotations

from typing import Any

from shmlease.errors import IngestError
from shmlease.text.schema import Schema, parse_dtype

__all__ = ["FORMATS", "format_named"]


def _schema(dtype: str = "", columns: list[int | str] | None = None, **options: Any) -> Schema:
    schema = Schema(**options)
    return schema.with_dtype(parse_dtype(dtype), columns) if dtype else schema


FORMATS: dict[str, Schema] = {
    # Bismark coverage (.cov): chromosome, start, end, percentage, methylated, unmethylated
    "bismark-cov": _schema(
        "chr:S16,pos:i4,pct:f4,c:i4,t:i4",
        [0, 1, 3, 4, 5],
    ),
    # methylation bedGraph, track line skipped: chromosome, start (from 0), end, percentage, methylated, unmethylated
    "bedgraph-methylation": _schema(
        "chr:S16,pos:i4,pct:f4,c:i4,t:i4",
        [0, 1, 3, 4, 5],
        comments=("track", "browser", "#"),
    ),
    # methylKit calls: chromosome, base, strand, coverage, percentages of C and T
    "methylkit": _schema(
        "chr:S16,pos:i4,strand:S1,coverage:i4,freq_c:f4,freq_t:f4",
        ["chr", "base", "strand", "coverage", "freqC", "freqT"],
        header=True,
    ),
    # ALLC of single cells: chromosome, position, strand, context, methylated, coverage, flag
    "allc": _schema(
        "chr:S16,pos:i4,strand:S1,context:S8,mc:i4,cov:i4,flag:i1",
    ),
    # gemBS CpG calls as ENCODE publishes them: contig, positions, reference, call, flags, methylation, counts
    "gembs": _schema(
        "chr:S16,pos0:i4,pos1:i4,ref:S2,call:S2,flags:S32,meth:f4,non_conv:i4,conv:i4,support:i4,total:i4",
        list(range(11)),
        header=True,
        missing=("-",),
    ),
    # Met Office station series: prose skipped, --- missing, * and # after values counted and dropped, remarks kept
    "metoffice": _schema(
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
    # NREL typical year (TMY3): station line skipped, -9900 and ? missing; time, irradiance and weather
    "tmy3": _schema(
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
    # NREL satellite irradiance (NSRDB PSM3) with its saved index: time, weather, irradiance
    "nsrdb": _schema(
        "index:i4,year:i2,month:i1,day:i1,hour:i1,minute:i1,temperature:f4,dew_point:f4,dhi:f4,dni:f4,ghi:f4,"
        "albedo:f4,pressure:f4,wind_direction:f4,wind_speed:f4",
        list(range(15)),
        delimiter=",",
        header=True,
    ),
    # USGS RDB: # comments, header, a line of column types; give the fields, or infer them
    "rdb": _schema(
        header=True,
        skip_after_header=1,
        comments=("#",),
    ),
    # comma-separated with a header and quotes; give the fields, or infer them
    "csv": _schema(
        delimiter=",",
        header=True,
        quote='"',
    ),
    # tab-separated with a header; give the fields, or infer them
    "tsv": _schema(header=True),
    # columns between runs of blanks, no header; give the fields, or infer them
    "blanks": _schema(delimiter=None),
}


def format_named(name: str) -> Schema:
    """The schema of a named layout.

    Raises
    ------
    IngestError
        There is no layout of that name; the message lists those there are.
    """
    try:
        return FORMATS[name]
    except KeyError:
        raise IngestError(f"no layout is named {name!r}; there are {', '.join(FORMATS)}") from None
