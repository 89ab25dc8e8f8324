"""The page of a stress run: whole in one file, true to the verdict, and safe with any text."""

from __future__ import annotations

import msgspec

from rig.html_page import EVIL, Page
from shmlease.verification.faults import Fault, FaultKind
from shmlease.verification.stress.generator import Schedule
from shmlease.verification.stress.page import as_page
from shmlease.verification.stress.verdict import Broken, Latency, Moment, Verdict


def verdict(*findings: Broken) -> Verdict:
    latency = Latency(1234, 1e-4, 2e-3, 0.03, 0.4)
    return Verdict(
        seed=7,
        clients=3,
        capacity_bytes=32 << 20,
        duration_s=10.0,
        operations=3800,
        outcomes={"lease": 1234, "lease: CapacityError": 56},
        latencies={"lease": latency},
        faults={"kill": 2},
        reclaim=latency,
        takeover=None,
        peak_bytes=10 << 20,
        registry_bytes=(1 << 20, 2 << 20),
        rests=4,
        findings=list(findings),
        coverage=["shm-full: others use it"],
        moments=[Moment(second, second * 380, second << 20, 3) for second in range(11)],
        reclaims_s=[(1.0, 0.01)],
        takeovers_s=[],
        schedule=Schedule(7, 32 << 20, {0: [(0, 10)]}, [Fault(FaultKind.KILL, 0, 0, 0.1, 1.0)]),
    )


def test_sound_run_says_so_with_its_figures_and_charts() -> None:
    page = Page(as_page(verdict()))
    assert page.texts["h1"] == "Nothing was lost"
    for text in ("3,800 operations", "3 clients", "1 MiB → 2 MiB", "1,234", "400 ms", "CapacityError", "shm-full: others"):
        assert text in page.texts["main"]
    assert [tag for tag, _ in page.tags].count("figure") == 4


def test_broken_promises_come_first_and_are_escaped() -> None:
    text = as_page(verdict(Broken("leak", "client 1", EVIL, 1.5)))
    page = Page(text)
    assert page.texts["h1"] == "1 promise was broken"
    assert EVIL in page.texts["table"]
    assert [tag for tag, _ in page.tags].count("script") == 2
    assert "img" not in [tag for tag, _ in page.tags]


def test_page_carries_the_schedule_and_fetches_nothing() -> None:
    text = as_page(verdict())
    page = Page(text)
    embedded = text.partition('id="report">')[2].partition("</script>")[0]
    assert msgspec.json.decode(embedded, type=Schedule) == verdict().schedule
    assert all(link.startswith(("#", "data:")) for link in (*page.attributes("src"), *page.attributes("href")))
    assert "url(" not in text
