"""Measurements become tables and charts that say what they are."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from shmlease.verification.bench.peers import PEERS, available
from shmlease.verification.bench.report import as_chart, as_markdown, as_table, as_text
from shmlease.verification.bench.timing import Figure, Measurement, figure_of, interleaved

MEASURED = Measurement(
    "hand-over",
    "What it is.",
    "s",
    "bytes",
    "stdlib",
    [
        Figure("shmlease", 4096.0, 1e-4, 2e-4, 1.1, 10),
        Figure("stdlib", 4096.0, 2e-4, 3e-4, 1.2, 10),
        Figure("shmlease", 1048576.0, 1e-3, 2e-3, 2.0, 10),
    ],
    {"processors": "2"},
)


def test_a_table_has_ratios_to_the_reference_where_it_was_measured() -> None:
    assert as_table(MEASURED) == [
        ["", "4 KiB", "1 MiB"],
        ["shmlease", "100 us (0.50x)", "1 ms"],
        ["stdlib", "200 us", "-"],
    ]


def test_noise_is_part_of_what_is_shown() -> None:
    assert "rounds differed by up to 2.00x; this machine is busy" in as_text(MEASURED)
    assert "differed by up to 2.00x" in as_markdown(MEASURED)


def test_the_documentation_says_what_is_quantified_and_on_what() -> None:
    page = as_markdown(MEASURED)
    assert "What it is." in page
    assert "processors 2" in page
    assert "| shmlease | 100 us (0.50x) | 1 ms |" in page


def test_a_chart_has_every_subject() -> None:
    svg = as_chart(MEASURED)
    assert ">shmlease</text>" in svg
    assert ">stdlib</text>" in svg
    assert svg.count("<polyline") == 2


def test_a_chart_names_its_axes_the_machine_and_its_load() -> None:
    svg = as_chart(msgspec.structs.replace(MEASURED, machine={"processors": "2", "load": "0.5"}))
    assert ">wall time, median; processors 2, load 0.5</text>" in svg
    assert ">size</text>" in svg


def test_one_point_is_drawn_as_bars_with_their_figures() -> None:
    svg = as_chart(msgspec.structs.replace(MEASURED, figures=MEASURED.figures[:2]))
    assert ">hand-over, 4 KiB</text>" in svg
    assert ">100 us (0.50x)</text>" in svg
    lengths = [float(width) for width in re.findall(r'<rect x="\d+" y="\d+" width="([\d.]+)"', svg)]
    assert lengths[0] == pytest.approx(lengths[1] / 2, abs=0.2)


def test_the_page_is_made_of_stored_measurements_and_its_beginning_is_kept(tmp_path: Path) -> None:
    (tmp_path / "benchmarks.md").write_text("# Benchmarks\n\nKept.\n\n<!-- measured -->\n\nOld.\n")
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "gone.svg").touch()
    bars = msgspec.structs.replace(MEASURED, name="other", figures=MEASURED.figures[:2])
    for number, one in enumerate((MEASURED, bars)):
        (tmp_path / f"{number}.json").write_bytes(msgspec.json.encode([one]))
    script = Path(__file__).resolve().parents[4] / "benchmarks" / "report.py"
    command = [sys.executable, str(script), "1.json", "0.json", "--into", "."]
    subprocess.run(command, cwd=tmp_path, check=True)
    page = (tmp_path / "benchmarks.md").read_text()
    assert page.startswith("# Benchmarks\n\nKept.\n\n<!-- measured -->\n")
    assert "Old." not in page
    assert page.index("## Other") < page.index("## Hand-over")
    linked = re.findall(r"!\[[^]]*\]\(benchmarks/(.*?)\)", page)
    assert sorted(linked) == sorted(path.name for path in (tmp_path / "benchmarks").iterdir())


def test_a_measurement_survives_being_stored() -> None:
    assert msgspec.json.decode(msgspec.json.encode([MEASURED]), type=list[Measurement]) == [MEASURED]


def test_methods_take_turns_and_none_is_left_out() -> None:
    calls: list[str] = []
    figures = interleaved({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 1.0, 0.004, rounds=2)
    assert [figure.subject for figure in figures] == ["a", "b"]
    assert all(figure.count > 0 and figure.p50 > 0 for figure in figures)
    turns = "".join(calls[6:])
    assert turns.startswith("a")
    assert turns.count("ab") == 2


def test_noise_is_how_far_rounds_differ() -> None:
    figure = figure_of("a", 1.0, [[1.0, 1.0, 1.0], [3.0, 3.0]])
    assert (figure.p50, figure.noise, figure.count) == (1.0, 3.0, 5)


@pytest.mark.parametrize("subject", [subject for subject in PEERS if PEERS[subject][1] in ("shmlease", "multiprocessing")])
def test_peers_of_the_standard_library_are_always_there(subject: str) -> None:
    assert subject in set(available())
