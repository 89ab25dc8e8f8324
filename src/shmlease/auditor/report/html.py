"""The report as one HTML page: verdict, timeline, findings, what was set aside, what was not seen, and the report as JSON.

The page needs no network and no script: everything is written out here, and the script only sorts, filters and folds. Names
come from anybody, so every text is escaped, and the page forbids itself to load or run anything else.
"""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from html import escape
from importlib import resources
from typing import Final

from shmlease.auditor.judge.findings import Report
from shmlease.auditor.judge.rules import RULES
from shmlease.auditor.report.formats.style import Style
from shmlease.auditor.report.html_findings import findings_section
from shmlease.auditor.report.html_timeline import timeline_section
from shmlease.auditor.report.lanes import timeline_of
from shmlease.units import format_bytes, format_duration

__all__ = ["render"]

_BLIND: Final = "LH016"
_BYTES: Final = frozenset({"bytes"})


def render(report: Report, style: Style | None = None) -> str:  # noqa: ARG001 - the form's signature
    """`report` as one HTML page."""
    timeline = timeline_of(report)
    title = _title(report, timeline.scope_name)
    body = "".join(
        (
            _header(report, timeline.scope_name),
            "<main>",
            _verdict(report),
            timeline_section(report, timeline),
            findings_section(report),
            _set_aside(report),
            _coverage(report),
            "</main>",
            _footer(report),
        )
    )
    css, script = _resource("page.css"), _resource("page.js")
    # "</script>" in a name must not end the block; these three escapes are JSON's own
    data = report.to_json(indent=0).decode().replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    policy = f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src '{_hash(script)}'"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f"<title>{escape(title)}</title>\n"
        f'<link rel="icon" href="data:image/svg+xml;base64,{_icon(is_clean=report.is_clean)}">\n'
        f"<style>{css}</style>\n</head>\n<body>\n{body}\n"
        f'<script type="application/json" id="report">{data}</script>\n<script>{script}</script>\n</body>\n</html>\n'
    )


def _resource(name: str) -> str:
    return resources.files("shmlease.auditor.report").joinpath("page", name).read_text("utf-8")


def _hash(script: str) -> str:
    digest = hashlib.sha256(script.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


def _icon(*, is_clean: bool) -> str:
    colour = "#2f9e44" if is_clean else "#e03131"
    icon = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><circle cx="8" cy="8" r="7" fill="{colour}"/></svg>'
    )
    return base64.b64encode(icon.encode()).decode()


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def _title(report: Report, scope: str) -> str:
    what = "no leaks" if report.is_clean else _count(len(report.leaks), "leak")
    return f"{what} – {scope or 'shmlease audit'}"


def _header(report: Report, scope: str) -> str:
    moment = datetime.fromtimestamp(report.environment.began_ns / 1e9, UTC)
    when = f'<time datetime="{moment:%Y-%m-%dT%H:%M:%SZ}">{moment:%Y-%m-%d %H:%M:%S} UTC</time>'
    what = f"<code>{escape(scope)}</code>" if scope else "what is in shared memory"
    host = f" on {escape(report.environment.host)}" if report.environment.host else ""
    return (
        '<header><div class="brand"><svg viewBox="0 0 24 24" aria-hidden="true">'
        '<rect x="2" y="4" width="20" height="4" rx="2"/><rect x="2" y="10" width="13" height="4" rx="2"/>'
        '<rect class="part" x="2" y="16" width="7" height="4" rx="2"/><rect class="out" x="11" y="16" width="11" height="4" '
        'rx="2"/></svg><b>shmlease</b><span>audit</span></div>'
        f'<p class="subject">{what}<small>{when}{host}</small></p>'
        '<div class="tools"><button type="button" id="save" hidden>Save JSON</button>'
        '<button type="button" id="theme" hidden aria-label="Light or dark"><svg viewBox="0 0 16 16" aria-hidden="true">'
        '<circle cx="8" cy="8" r="6.2"/><path d="M8 1.8a6.2 6.2 0 0 1 0 12.4z"/></svg></button></div></header>'
    )


def _verdict(report: Report) -> str:
    leaks = report.leaks
    if leaks:
        state, head = "bad", _count(len(leaks), "leak")
        memory = sum({finding.subject: finding.resident_bytes for finding in leaks}.values())
        sure = Counter(finding.confidence.value for finding in leaks)
        told = ", ".join(f"{count} {word}" for word, count in sure.items())
        line = f"{format_bytes(memory)} still in memory; {told}."
    elif report.coverage.is_blind:
        state, head = "dim", "No leaks, as far as could be seen"
        line = "Something could not be seen, and a leak may hide there: see below."
    else:
        state, head, line = "good", "No leaks", "Everything that could leak was looked at."
    notes = sum(not finding.is_leak and finding.rule != _BLIND for finding in report.findings)
    facts = [
        ("exit code", str(report.exit_code())),
        ("notes", f"{notes:,}"),
        ("set aside", f"{len(report.suppressed):,}"),
        ("not seen", f"{len(report.coverage.gaps):,}"),
        ("audit took", format_duration(report.environment.elapsed_ns / 1e9)),
    ]
    listed = "".join(f"<div><dt>{name}</dt><dd>{escape(value)}</dd></div>" for name, value in facts)
    return (
        f'<section class="verdict {state}"><div class="seal" aria-hidden="true">{_SEALS[state]}</div>'
        f"<div><h1>{escape(head)}</h1><p>{escape(line)}</p></div><dl>{listed}</dl></section>"
    )


_SEALS: Final = {
    "good": '<svg viewBox="0 0 24 24"><path d="M5 12.5l4.5 4.5L19 7.5"/></svg>',
    "bad": '<svg viewBox="0 0 24 24"><path d="M12 3.5c3.6 4.6 5.8 7.3 5.8 10.4a5.8 5.8 0 0 1-11.6 0c0-3.1 2.2-5.8 5.8-10.4z"/>'
    "</svg>",
    "dim": '<svg viewBox="0 0 24 24"><path d="M4 4l16 16M9 6.2A10 10 0 0 1 21 12a14 14 0 0 1-2.6 3.2M6 8.4A13 13 0 0 0 3 12a10 '
    '10 0 0 0 12 5.6"/></svg>',
}


def _set_aside(report: Report) -> str:
    rows = "".join(_suppression_rows(report))
    if not rows:
        return ""
    return (
        f'<section id="aside"><h2>Set aside <span>{len(report.suppressed):,}</span></h2>'
        '<div class="scroll"><table class="plain"><thead><tr><th>used</th><th>rule</th><th>name</th><th>maker</th>'
        f"<th>reason</th><th>written in</th></tr></thead><tbody>{rows}</tbody></table></div></section>"
    )


def _suppression_rows(report: Report) -> Iterator[str]:
    known = {(use.reason, use.source) for use in report.suppressions}
    for use in sorted(report.suppressions, key=lambda use: -use.uses):
        if use.uses == 0 and use.source == "default":
            continue
        state = f"expired {use.expires}" if use.expired else f"{use.uses:,} times" if use.uses else "unused"
        kind = "" if use.uses else ' class="idle"'
        yield (
            f"<tr{kind}><td>{escape(state)}</td><td>{escape(use.rule)}</td><td><code>{escape(use.name)}</code></td>"
            f"<td><code>{escape(use.creator)}</code></td><td>{escape(use.reason)}</td><td>{escape(use.source)}</td></tr>"
        )
    # a baseline is no suppression of its own: its findings are counted
    others = Counter((one.reason, one.source) for one in report.suppressed if (one.reason, one.source) not in known)
    for (reason, source), count in others.most_common():
        yield (
            f"<tr><td>{count:,} times</td><td>*</td><td></td><td></td><td>{escape(reason)}</td><td>{escape(source)}</td></tr>"
        )


def _coverage(report: Report) -> str:
    gaps = "".join(
        f'<li class="{"blinding" if gap.blinding else "harmless"}"><b>{escape(gap.what)}</b> {escape(gap.why)}'
        + (f" <code>{escape(gap.source)}</code>" if gap.source else "")
        + "</li>"
        for gap in sorted(report.coverage.gaps, key=lambda gap: not gap.blinding)
    )
    looked_at = "".join(
        f"<div><dd>{format_bytes(count) if name in _BYTES else f'{count:,}'}</dd><dt>{escape(name)}</dt></div>"
        for name, count in report.coverage.looked_at.items()
    )
    seen = (
        f"<ul class='gaps'>{gaps}</ul>" if gaps else "<p class='quiet'>Nothing that could hide a leak was out of sight.</p>"
    )
    return (
        f'<section id="coverage"><h2>Not seen <span>{len(report.coverage.gaps):,}</span></h2>{seen}'
        f'<h2>Looked at</h2><dl class="counts">{looked_at}</dl></section>'
    )


def _footer(report: Report) -> str:
    environment = report.environment
    rows = (
        ("roots", ", ".join(environment.roots)),
        ("user", f"{environment.user} ({environment.user_id}{', privileged' if environment.privileged else ''})"),
        ("kernel", environment.kernel),
        ("command", environment.command),
        ("rules", f"{len(RULES)} known"),
        ("shmlease", environment.version),
    )
    listed = "".join(f"<div><dt>{name}</dt><dd>{escape(value)}</dd></div>" for name, value in rows if value)
    return f"<footer><dl>{listed}</dl></footer>"
