"""A self-contained HTML page: tables first, then figures; no network, readable on a phone, printable."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from ehrjax.core import files

STYLE = """
:root { color-scheme: light; --ink: #1f2933; --soft: #5b6b7b; --line: #dfe5ea; --accent: #2563a8; }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; color: var(--ink);
       margin: 0 auto; max-width: 62rem; padding: 1.5rem 1rem 4rem; background: #fff; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .5rem; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .5rem; padding-top: .5rem; border-top: 1px solid var(--line); }
p { max-width: 46rem; margin: .5rem 0; }
nav { display: flex; flex-wrap: wrap; gap: .25rem 1rem; font-size: .9rem; margin: 1rem 0; }
a { color: var(--accent); }
.note { color: var(--soft); font-size: .9rem; }
.scroll { overflow-x: auto; -webkit-overflow-scrolling: touch; }
table { border-collapse: collapse; font-size: .9rem; margin: .75rem 0; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .3rem .7rem; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
th { font-weight: 600; color: var(--soft); }
tr.strong td { font-weight: 600; }
small { color: var(--soft); font-size: .85em; }
figure { margin: 1rem 0; }
dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: .15rem 1rem; font-size: .9rem; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
pre { font-size: .8rem; overflow-x: auto; background: #f6f8fa; padding: .75rem; border-radius: 4px; }
details > summary { cursor: pointer; color: var(--accent); }
table.dense td small { display: block; } table.dense th, table.dense td { padding: .3rem .45rem; vertical-align: top; }
table.dense th { white-space: normal; vertical-align: bottom; }
table.dense td:first-child { white-space: normal; }
@media (max-width: 40rem) { td small { display: block; } th, td { padding: .3rem .4rem; vertical-align: top; }
  th:first-child, td:first-child { white-space: normal; } }
@media print { @page { size: A4 landscape; margin: 12mm; } nav { display: none; } body { max-width: none; padding: 0; }
  h2, h3 { break-after: avoid; } .scroll { overflow: visible; } table { font-size: .8rem; }
  figure, tr { break-inside: avoid; } }
"""


# Columns beyond which a table sets its intervals below their numbers.
DENSE = 5


def text(value: object) -> str:
    """Escaped for HTML."""
    return html.escape(str(value))


def table(header: Sequence[str], rows: Sequence[Sequence[object]], *, strong: Sequence[int] = ()) -> str:
    """An HTML table; cells are escaped unless they are `Markup`.

    Args:
      header: column names.
      rows: cells.
      strong: indices of rows to set in bold.
    """
    dense = ' class="dense"' if len(header) > DENSE else ""
    head = "".join(f"<th>{text(name)}</th>" for name in header)
    if dense:  # long names of rows may go on in a second line
        rows = [[Markup(_cell(name).replace("_", "_<wbr>")), *cells] for name, *cells in rows]
    body = "".join(
        ('<tr class="strong">' if i in strong else "<tr>") + "".join(f"<td>{_cell(c)}</td>" for c in row) + "</tr>"
        for i, row in enumerate(rows)
    )
    return f'<div class="scroll"><table{dense}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def facts(pairs: Iterable[tuple[str, object]]) -> str:
    """Names and values, one pair a line."""
    return "<dl>" + "".join(f"<dt>{text(name)}</dt><dd>{text(value)}</dd>" for name, value in pairs) + "</dl>"


class Markup(str):
    """HTML that is already safe."""


def _cell(value: object) -> str:
    return str(value) if isinstance(value, Markup) else text(value)


def figure(drawn: go.Figure) -> str:
    """A plotly figure as a fragment; the page holds the library once."""
    fragment = drawn.to_html(
        full_html=False, include_plotlyjs=False, config={"displayModeBar": False, "responsive": True}
    )
    return f"<figure>{fragment}</figure>"


@dataclass
class Page:
    """A page in the making: a title, a lead, and sections in order."""

    title: str
    lead: str = ""
    sections: list[tuple[str, str]] = field(default_factory=list)

    def add(self, heading: str, *content: str) -> None:
        """Appends a section; the content is HTML."""
        self.sections.append((heading, "\n".join(content)))

    def render(self) -> str:
        """The whole page."""
        links = "".join(f'<a href="#s{i}">{text(h)}</a>' for i, (h, _) in enumerate(self.sections))
        body = "".join(
            f'<section id="s{i}"><h2>{text(h)}</h2>{content}</section>' for i, (h, content) in enumerate(self.sections)
        )
        script = f"<script>{get_plotlyjs()}</script>" if "plotly-graph-div" in body else ""
        return (
            '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{text(self.title)}</title><style>{STYLE}</style>{script}</head>"
            f"<body><h1>{text(self.title)}</h1>{self.lead}<nav>{links}</nav>{body}</body></html>"
        )

    def write(self, path: str | Path) -> None:
        """Writes the page, atomically."""
        with files.written_file(path) as temporary:
            temporary.write_text(self.render(), encoding="utf-8")
