"""What the sections of an evaluation's page have in common: numbers with their intervals, and words for differences."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ehrjax.viz.page import Markup, text

# Lines in a figure at most.
MOST_DRAWN = 9
# Models side by side in a table; more follow in a further one, so that paper and screens show them all.
MOST_COLUMNS = 5
# Of a number that has a reason to be doubted.
MARK = "†"
Told = Mapping[str, Any]


def labels_of(result: Told) -> dict[str, str]:
    """Metric name -> what people call it."""
    return {metric["name"]: metric["label"] for metric in result["metrics"]}


def drawn_of(result: Told, models: Sequence[Told]) -> tuple[list[Told], list[str]]:
    """Those of some models that one figure draws, in their order, and a note where these are not all of them.

    The reference and the best possible always are; the others are the best by the first metric.
    """
    if len(models) <= MOST_DRAWN:
        return list(models), []
    primary = result["primary"]
    rises = next(metric["higher_is_better"] for metric in result["metrics"] if metric["name"] == primary)
    always = [m["name"] for m in models if m["role"] == "oracle" or m["name"] == result["reference"]]

    def rank(model: Told) -> tuple[bool, bool, float]:
        value = model["metrics"][primary]["value"]
        return model["name"] not in always, value is None, (value or 0.0) * (-1 if rises else 1)

    names = {model["name"] for model in sorted(models, key=rank)[:MOST_DRAWN]}
    kept = [model for model in models if model["name"] in names]
    left = ", ".join(model["label"] for model in models if model["name"] not in names)
    told = (
        f"Of {len(models)} models {len(kept)} are drawn, the best by {labels_of(result)[primary]} and what they are "
        f"compared with; not {left}."
    )
    return kept, [f'<p class="note">{text(told)}</p>']


def number(measure: Told | None, *, digits: int = 3, signed: bool = False) -> Markup:
    """A number with its interval, marked where something is wrong with it (`reasons` says what); a dash with the reason
    where there is none.
    """
    if measure is None or measure["value"] is None:
        reason = (measure or {}).get("reason", "")
        return Markup(f'–<small title="{text(reason)}">{" " + text(reason) if reason else ""}</small>')
    sign = "+" if signed else ""
    shown = f"{measure['value']:{sign}.{digits}f}"
    reason = measure.get("reason")
    mark = f'<sup title="{text(reason)}">{MARK}</sup>' if reason else ""
    if measure["low"] is None:
        return Markup(shown + mark)
    ends = f"({measure['low']:{sign}.{digits}f} to {measure['high']:{sign}.{digits}f})"
    return Markup(f"{shown}{mark} <small>{ends}</small>")


def reasons(measures: Iterable[Told]) -> list[str]:
    """A note on what the marks of some numbers mean; none without a mark."""
    told: dict[str, list[int]] = {}
    for own in measures:
        if own["value"] is not None and (reason := own.get("reason")):
            counts = re.findall(r"\d+", reason)
            told.setdefault(re.sub(r"\d+", "{}", reason, count=1), []).extend(int(count) for count in counts[:1])
    # Those that differ only in how many resamples are one.
    spans = {kind: f"{min(n)} to {max(n)}" if len(set(n)) > 1 else str(max(n, default="")) for kind, n in told.items()}
    sentences = [text(kind.replace("{}", span)) for kind, span in sorted(spans.items())]
    return [f'<p class="note">{MARK} {"; ".join(sentences)}.</p>'] if told else []


def verdict(difference: Told, *, higher_is_better: bool | None) -> str:
    """In words, what the interval of a difference allows to say."""
    if difference["low"] is None:
        return "too little to say"
    if difference["low"] <= 0 <= difference["high"]:
        return "not distinguishable"
    if higher_is_better is None:
        return "different"
    return "better" if (difference["low"] > 0) == higher_is_better else "worse"
