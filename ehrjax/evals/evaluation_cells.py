"""What the sections of an evaluation's page have in common: numbers with their intervals, and words for differences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ehrjax.viz.page import Markup, text

# Lines in a figure at most.
MOST_DRAWN = 9
# Models side by side in a table; more follow in a further one, so that paper and screens show them all.
MOST_COLUMNS = 5
Told = Mapping[str, Any]


def labels_of(result: Told) -> dict[str, str]:
    """Metric name -> what people call it."""
    return {metric["name"]: metric["label"] for metric in result["metrics"]}


def number(measure: Told | None, *, digits: int = 3, signed: bool = False) -> Markup:
    """A number with its interval; a dash with the reason where there is none."""
    if measure is None or measure["value"] is None:
        reason = (measure or {}).get("reason", "")
        return Markup(f'–<small title="{text(reason)}">{" " + text(reason) if reason else ""}</small>')
    sign = "+" if signed else ""
    shown = f"{measure['value']:{sign}.{digits}f}"
    if measure["low"] is None:
        return Markup(shown)
    return Markup(f"{shown} <small>({measure['low']:{sign}.{digits}f} to {measure['high']:{sign}.{digits}f})</small>")


def verdict(difference: Told, *, higher_is_better: bool | None) -> str:
    """In words, what the interval of a difference allows to say."""
    if difference["low"] is None:
        return "too little to say"
    if difference["low"] <= 0 <= difference["high"]:
        return "not distinguishable"
    if higher_is_better is None:
        return "different"
    return "better" if (difference["low"] > 0) == higher_is_better else "worse"
