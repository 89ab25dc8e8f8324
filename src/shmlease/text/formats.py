"""The formats that have a name: tables that people have, each as a schema, so that one word (`--layout`) reads them.

The positions of genomic layouts keep the convention of their file: Bismark coverage and ALLC count from 1, bedGraph from 0.
Names of chromosomes get 16 bytes, enough for the unplaced contigs of common assemblies; a longer one is an error that says
the length needed, and `fit_strings` finds it beforehand. Strings of no common length are measured.
"""

from __future__ import annotations

import re
from typing import Any

from shmlease.errors import IngestError
from shmlease.text.schema import Field, Schema, parse_dtype

__all__ = ["FORMATS", "format_named", "format_of"]


def _schema(dtype: str = "", columns: list[int | str] | None = None, **options: Any) -> Schema:
    schema = Schema(**options)
    return schema.with_dtype(parse_dtype(dtype), columns) if dtype else schema


_TRACKS = ("track", "browser", "#")
_BED6 = "chr:S16,start:i4,end:i4,name:S,score:f4,strand:S1"
_MATRIX_MARKET: dict[str, Any] = {"delimiter": None, "comments": ("%",), "header": True}

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
    # Bismark CpG_report: chromosome, position, strand, methylated, unmethylated, context, trinucleotide
    "bismark-cpg-report": _schema(
        "chr:S16,pos:i4,strand:S1,c:i4,t:i4,context:S3,trinucleotide:S3",
    ),
    # bedGraph of four columns, as Bismark writes it: chromosome, start (from 0), end, value
    "bedgraph": _schema(
        "chr:S16,start:i4,end:i4,value:f4",
        comments=_TRACKS,
    ),
    # bedMethyl of ENCODE (11 columns): positions, strand, coverage, percentage
    "bedmethyl": _schema(
        "chr:S16,start:i4,end:i4,strand:S1,coverage:i4,pct:f4",
        [0, 1, 2, 5, 9, 10],
        comments=_TRACKS,
        width=11,
    ),
    # bedMethyl of modkit (18 columns, the last nine between tabs or blanks): code of the base, counts of calls
    "modkit": _schema(
        "chr:S16,start:i4,end:i4,code:S16,strand:S1,valid:i4,pct:f4,modified:i4,canonical:i4,other:i4,deleted:i4,"
        "failed:i4,different:i4,no_call:i4",
        [0, 1, 2, 3, 5, 9, 10, 11, 12, 13, 14, 15, 16, 17],
        delimiter=None,
        comments=_TRACKS,
        width=18,
    ),
    # BED of three, six or twelve columns, and the peaks of ENCODE; positions from 0
    "bed3": _schema("chr:S16,start:i4,end:i4", comments=_TRACKS),
    "bed6": _schema(_BED6, comments=_TRACKS),
    "bed12": _schema(
        _BED6 + ",thick_start:i4,thick_end:i4,color:S11,block_count:i4,block_sizes:S,block_starts:S", comments=_TRACKS
    ),
    "narrowpeak": _schema(_BED6 + ",signal:f4,p_value:f4,q_value:f4,peak:i4", comments=_TRACKS),
    # VCF without its samples: the eight fixed columns
    "vcf": _schema(
        "chr:S16,pos:i4,id:S,ref:S,alt:S,qual:f4,filter:S,info:S",
        ["#CHROM", "POS", "ID", "REF", "ALT", "QUAL", "FILTER", "INFO"],
        comments=("##",),
        header=True,
        missing=(".",),
    ),
    # GFF3 and GTF, without the sequences that may follow; a phase that is missing is -1
    "gff": _schema(
        "chr:S16,source:S,type:S,start:i4,end:i4,score:f4,strand:S1,phase:i1=-1,attributes:S",
        comments=("#",),
        ends_at="##FASTA",
        missing=(".",),
    ),
    # GHCN daily: a station, an element and a month a line, 31 values with three flags each; -9999 is no value
    "ghcn-daily": Schema(
        widths=(11, 4, 2, 4, *(5, 1, 1, 1) * 31),
        missing=("-9999",),
        fields=(
            *parse_dtype("station:S11,year:i2,month:i1,element:S4"),
            Field("value", "31i2", source=4, fill="-9999", step=4),
            *(Field(name, "31S1", source=5 + place, step=4) for place, name in enumerate(("mflag", "qflag", "sflag"))),
        ),
    ),
    # USCRN daily summaries (CRND0103): temperatures, precipitation, radiation, humidity, soil
    "uscrn-daily": _schema(
        "wban:i4,date:M8[D](%Y%m%d),version:S8,longitude:f4,latitude:f4,tmax:f4,tmin:f4,tmean:f4,tavg:f4,precipitation:f4,"
        "radiation:f4,surface_type:S1,surface_max:f4,surface_min:f4,surface_avg:f4,rh_max:f4,rh_min:f4,rh_avg:f4,"
        "soil_moisture:5f4,soil_temperature:5f4",
        delimiter=None,
        missing=("-9999", "surface_max=-99", "surface_min=-99", "soil_moisture=-99"),
        short="missing",
    ),
    # AERONET version 3, direct sun: time, optical depths, water; -999 is no value
    "aeronet": _schema(
        "date:M8[D](%d:%m:%Y),time:m8[s],aod_1020:f4,aod_870:f4,aod_675:f4,aod_500:f4,aod_440:f4,aod_380:f4,aod_340:f4,"
        "water_cm:f4,angstrom_440_870:f4",
        [
            *("Date(dd:mm:yyyy)", "Time(hh:mm:ss)", "AOD_1020nm", "AOD_870nm", "AOD_675nm", "AOD_500nm", "AOD_440nm"),
            *("AOD_380nm", "AOD_340nm", "Precipitable_Water(cm)", "440-870_Angstrom_Exponent"),
        ],
        delimiter=",",
        skip_to="Date(dd:mm:yyyy)",
        header=True,
        missing=("-999",),
    ),
    # Matrix Market coordinates, counted from 1; the line of its size is no row
    "matrix-market": _schema("row:i4,column:i4,value:f8", [0, 1, 2], **_MATRIX_MARKET),
    "matrix-market-integer": _schema("row:i4,column:i4,value:i8", [0, 1, 2], **_MATRIX_MARKET),
    # ESRI ASCII grid: corner and cell size become attributes, NODATA_value becomes NaN
    "esri-ascii": Schema(delimiter=None, attribute_lines=True, matrix=True, fields=(Field("values", "*f4", source=0),)),
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


# How the text of a file of these layouts begins; what it is otherwise is inferred.
_SIGNS = {
    "vcf": r"##fileformat=VCF",
    "gff": r"##gff-version",
    "matrix-market": r"%%MatrixMarket matrix coordinate real (?!hermitian)",
    "matrix-market-integer": r"%%MatrixMarket matrix coordinate integer",
    "esri-ascii": r"(?i)\s*ncols\s+\d+\s*\n\s*nrows\s",
    "aeronet": r"AERONET Version 3",
    "ghcn-daily": r"[A-Z]{2}[A-Z0-9_-]{9}\d{6}[A-Z]{2}[A-Z0-9]{2}[ \d-]{5}",
    "uscrn-daily": r" *\d{4,5} +\d{8} +\S+ +-?\d+\.\d\d +-?\d+\.\d\d +-?\d+\.\d ",
    "metoffice": r"(?s)[^\n]+\nLocation.*\n *yyyy +mm +tmax",
}


def format_of(beginning: str) -> str | None:
    """The layout that a file with this beginning seems to have, where it shows."""
    return next((name for name, sign in _SIGNS.items() if re.match(sign, beginning)), None)


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
        from difflib import get_close_matches  # noqa: PLC0415 - only for a misspelled name

        alike = get_close_matches(name, FORMATS)
        meant = f"did you mean {' or '.join(map(repr, alike))}? " if alike else ""
        raise IngestError(f"no layout is named {name!r}; {meant}there are {', '.join(FORMATS)}") from None
