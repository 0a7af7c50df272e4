"""The report of `jepack check` as one HTML file that needs nothing beside it, light and dark."""

from __future__ import annotations

from pathlib import Path

from app import cards
from app.checking.report import Case, Finding, Report
from app.store import Row, VectorStore
from jepack.files import write_bytes

MOST = 60  # cases of one finding
SHOWN = 6  # images of one case
STYLE = Path(__file__).with_name("page.css")


def write(path: Path, report: Report, store: VectorStore) -> None:
    """One file with the pictures inside; what is shown of a long list is its beginning, and that is said."""
    sections = "".join(section(one, store) for one in report.findings)
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>Check of {cards.safe(report.index)}</title><style>{STYLE.read_text()}</style></head>"
        f"<body><h1>{cards.safe(report.index)}</h1><p>{cards.safe(report.verdict)}</p>{sections}"
        "</body></html>\n"
    )
    write_bytes(path, page.encode())


def section(finding: Finding, store: VectorStore) -> str:
    shown = finding.cases[:MOST]
    rows = rows_of(shown, store)
    items = "".join(item(case, rows) for case in shown)
    wide = ' class="wide"' if any(len(case.ids) > 1 for case in shown) else ""
    told = [finding.skipped, finding.price, finding.method]
    if len(finding.cases) > MOST:
        told.append(f"The first {MOST} of {len(finding.cases):,} are shown.")
    notes = "".join(f'<p class="soft">{cards.safe(one)}</p>' for one in told if one)
    return (
        f"<section><h2>{cards.safe(finding.headline)}</h2>{notes}<ol{wide}>{items}</ol></section>"
    )


def item(case: Case, rows: dict[str, Row]) -> str:
    figures = "".join(
        f'<figure><span class="frame">{cards.picture(rows[name])}</span>'
        f"{cards.safe(caption(rows[name]))}</figure>"
        if name in rows
        else f"<figure>{cards.safe(name)}</figure>"
        for name in case.ids[:SHOWN]
    )
    return f"<li>{figures}<p>{cards.safe(case.why)}</p></li>"


def caption(row: Row) -> str:
    return f"{row.id} · {row.label}" if row.label else row.id


def rows_of(cases: tuple[Case, ...], store: VectorStore) -> dict[str, Row]:
    """The images of the cases that the index holds, by id."""
    names = {name for case in cases for name in case.ids[:SHOWN]}
    return {row.id: row for row in store.get([name for name in sorted(names) if store.has(name)])}
