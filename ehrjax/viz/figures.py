"""The figures of reports, as plotly objects in one style."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

# Okabe and Ito's colours (2008): distinguishable with every common kind of colour vision.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#7F7F7F", "#B8A600", "#000000")


def _styled(figure: go.Figure, *, x: str, y: str, height: int = 340) -> go.Figure:
    axis = dict(showline=True, linecolor="#9aa7b3", gridcolor="#eef1f4", zeroline=False, automargin=True)
    figure.update_layout(
        height=height,
        margin=dict(l=10, r=10, t=10, b=10),
        plot_bgcolor="#fff",
        paper_bgcolor="#fff",
        font=dict(family="system-ui, sans-serif", size=13, color="#1f2933"),
        legend=dict(orientation="h", yanchor="bottom", y=1.02, x=0),
        xaxis=dict(title=x, **axis),
        yaxis=dict(title=y, **axis),
        hoverlabel=dict(bgcolor="#fff", font_size=13),
    )
    return figure


def smoothed(values: Sequence[float], span: int) -> np.ndarray:
    """A running mean over the last `span` values (fewer at the start)."""
    array = np.asarray(values, np.float64)
    sums = np.concatenate([[0.0], np.cumsum(array)])
    stop = np.arange(1, len(array) + 1)
    start = np.maximum(stop - span, 0)
    return (sums[stop] - sums[start]) / (stop - start)


def curves(
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    x: str,
    y: str,
    against: Mapping[str, tuple[Sequence[float], Sequence[float]]] | None = None,
    bands: Mapping[str, tuple[Sequence[float], Sequence[float]]] | None = None,
) -> go.Figure:
    """Named lines of (x, y); a line of few points shows them.

    Args:
      lines: name -> (xs, ys).
      x, y: the axis titles.
      against: grey dashed lines to compare with, such as a diagonal.
      bands: name of a line -> (lows, highs) at its xs.
    """
    figure = go.Figure()
    for name, (xs, ys) in (against or {}).items():
        figure.add_scatter(
            x=list(xs), y=list(ys), name=name, mode="lines", line=dict(color="#9aa7b3", width=1.5, dash="dash")
        )
    for i, name in enumerate(lines):
        if bands and name in bands:
            xs, (lows, highs) = list(lines[name][0]), bands[name]
            figure.add_scatter(
                x=[*xs, *xs[::-1]], y=[*highs, *list(lows)[::-1]], fill="toself", mode="lines", line_width=0,
                fillcolor=COLOURS[i % 9], opacity=0.15, hoverinfo="skip", showlegend=False,
            )  # fmt: skip
    for i, (name, (xs, ys)) in enumerate(lines.items()):
        mode = "lines+markers" if len(xs) <= 30 else "lines"
        figure.add_scatter(x=list(xs), y=list(ys), name=name, mode=mode, line=dict(color=COLOURS[i % 9], width=2))
    return _styled(figure, x=x, y=y)


def intervals(
    rows: Mapping[str, Sequence[tuple[float | None, float | None, float | None]]],
    methods: Sequence[str],
    *,
    x: str,
    from_zero: bool = True,
) -> go.Figure:
    """One line a row, one mark a method with its interval: for comparing methods within groups.

    Args:
      rows: row name -> (value, low, high) per method; None where there is none.
      methods: their names.
      x: the axis title.
      from_zero: whether the axis begins at 0.
    """
    figure = go.Figure()
    names = list(rows)
    # The marks of a row stay apart from those of the next.
    step = min(0.16, 0.8 / max(len(methods), 1))
    for m, method in enumerate(methods):
        values = [rows[name][m] for name in names]
        known = [v[1] is not None for v in values]
        figure.add_scatter(
            x=[v[0] for v in values],
            y=[i + (m - (len(methods) - 1) / 2) * step for i in range(len(names))],
            mode="markers",
            name=method,
            marker=dict(color=COLOURS[m % 9], size=9),
            error_x=dict(
                type="data",
                symmetric=False,
                array=[v[2] - v[0] if k else 0 for v, k in zip(values, known)],
                arrayminus=[v[0] - v[1] if k else 0 for v, k in zip(values, known)],
                thickness=1.4,
                width=0,
            ),
            hovertemplate=f"{method}: %{{x:.3f}}<extra></extra>",
        )
    figure = _styled(figure, x=x, y="", height=120 + max(46, 12 * len(methods)) * len(names))
    figure.update_yaxes(
        tickvals=list(range(len(names))), ticktext=names, autorange="reversed", showgrid=False, title=None
    )
    if from_zero:
        figure.update_xaxes(rangemode="tozero")
    return figure


def histogram(values: np.ndarray, *, x: str, y: str, log: bool = True) -> go.Figure:
    """Counts in bins that are equally wide on a logarithmic axis (where `log`)."""
    values = np.asarray(values, np.float64)
    values = values[values > 0]
    if log:
        least = np.log10(min(values.min(initial=1), 1))
        edges = np.unique(np.round(np.logspace(least - 1e-9, np.log10(max(values.max(initial=2), 2)) + 1e-9, 32), 9))
    else:
        edges = np.linspace(values.min(initial=0), values.max(initial=1), 33)
    counts, edges = np.histogram(values, edges)
    centres = np.sqrt(edges[:-1] * edges[1:]) if log else (edges[:-1] + edges[1:]) / 2
    figure = go.Figure(
        go.Bar(
            x=centres,
            y=counts,
            width=np.diff(edges),
            marker_color=COLOURS[0],
            hovertemplate=f"about %{{x:.0f}} {x}: %{{y}}<extra></extra>",
        )
    )
    figure = _styled(figure, x=x, y=y)
    if log:
        figure.update_xaxes(type="log", dtick=1)
    return figure


def bars(names: Sequence[str], values: Sequence[float], *, x: str) -> go.Figure:
    """Horizontal bars, the largest on top."""
    order = np.argsort(values)
    figure = go.Figure(
        go.Bar(x=[values[i] for i in order], y=[names[i] for i in order], orientation="h", marker_color=COLOURS[0])
    )
    return _styled(figure, x=x, y="", height=90 + 24 * len(names))


def embedding_map(points: np.ndarray, groups: Sequence[str], hover: Sequence[str], sizes: Sequence[float]) -> go.Figure:
    """Points in the plane, coloured by group, each with a text to hover.

    Args:
      points: [N, 2].
      groups: [N] names; the eight largest have a colour of their own, the rest share one.
      hover: [N] HTML-safe texts.
      sizes: [N] marker sizes in pixels.
    """
    figure = go.Figure()
    groups = np.asarray(groups)
    names, counts = np.unique(groups, return_counts=True)
    kept = list(names[np.argsort(-counts, kind="stable")][:8])
    rest = "all others" if "other" in kept else "other"
    for i, name in enumerate([*kept, rest]):
        chosen = groups == name if i < len(kept) else ~np.isin(groups, kept)
        if chosen.any():
            figure.add_scattergl(
                x=points[chosen, 0],
                y=points[chosen, 1],
                mode="markers",
                name=name,
                marker=dict(color=COLOURS[i % 9], size=np.asarray(sizes)[chosen], opacity=0.75, line_width=0),
                text=np.asarray(hover)[chosen],
                hovertemplate="%{text}<extra></extra>",
            )
    figure = _styled(figure, x="", y="", height=560)
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    return figure


def counted(edges: np.ndarray, counts: np.ndarray, *, x: str, y: str, log: bool = True) -> go.Figure:
    """A histogram whose counts [len(edges) - 1] are known already; empty bins at both ends are left out."""
    there = np.flatnonzero(counts)
    first, last = (there[0], there[-1] + 1) if len(there) else (0, len(counts))
    edges, counts = np.asarray(edges, np.float64)[first : last + 1], np.asarray(counts)[first:last]
    centres = np.sqrt(edges[:-1] * edges[1:]) if log else (edges[:-1] + edges[1:]) / 2
    figure = go.Figure(go.Bar(x=centres, y=counts, width=np.diff(edges), marker_color=COLOURS[0]))
    figure = _styled(figure, x=x, y=y)
    if log:
        figure.update_xaxes(type="log", dtick=1)
    return figure


def timeline(
    lanes: Mapping[str, tuple[Sequence[float], Sequence[str]]],
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    bands: Sequence[tuple[float, float]],
    *,
    x: str,
) -> go.Figure:
    """One life: lanes of marks, below them lines of measured values, behind all of them bands.

    Args:
      lanes: name -> (place, text to hover) of its marks.
      lines: name -> (place, value).
      bands: (start, end) of what lasted, in the units of x.
      x: the axis title.
    """
    names, height = list(lanes), 30 * len(lanes) + 40
    heights = [height, *[90] * len(lines)]
    figure = make_subplots(
        rows=len(heights),
        cols=1,
        shared_xaxes=True,
        vertical_spacing=0.02,
        row_heights=[h / sum(heights) for h in heights],
    )
    for number, (places, hover) in enumerate(lanes.values()):
        colour = COLOURS[number % 9]
        figure.add_scatter(
            x=list(places),
            y=[number] * len(places),
            mode="markers",
            text=list(hover),
            hovertemplate="%{text}<extra></extra>",
            marker=dict(color=colour, size=8, symbol="line-ns", line=dict(width=2, color=colour)),
            showlegend=False,
            row=1,
            col=1,
        )
    for number, (name, (places, values)) in enumerate(lines.items()):
        figure.add_scatter(
            x=list(places),
            y=list(values),
            mode="lines+markers",
            line=dict(color=COLOURS[number % 9], width=1.5),
            marker=dict(size=5),
            hovertemplate=f"{name}: %{{y:.4g}}<extra></extra>",
            showlegend=False,
            row=number + 2,
            col=1,
        )
        figure.add_annotation(
            text=name, xref="x domain", yref=f"y{number + 2} domain", x=0.005, y=0.98, showarrow=False, xanchor="left",
            bgcolor="rgba(255,255,255,.8)", font=dict(size=12, color="#5b6b7b"),
        )  # fmt: skip
    for start, end in bands:
        figure.add_vrect(x0=start, x1=end, fillcolor="#56B4E9", opacity=0.18, line_width=0)
    figure = _styled(figure, x="", y="", height=sum(heights) + 60)
    axis = dict(showline=True, linecolor="#9aa7b3", gridcolor="#eef1f4", zeroline=False, automargin=True)
    figure.update_xaxes(**axis, title=None)
    figure.update_yaxes(**axis)
    figure.update_yaxes(tickvals=list(range(len(names))), ticktext=names, autorange="reversed", row=1, col=1)
    figure.update_xaxes(title=x, row=len(heights), col=1)
    return figure
