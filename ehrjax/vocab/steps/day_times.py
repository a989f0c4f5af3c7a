"""Times as whole days: what happened on one day is at one time."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

CATEGORIES = True


@dataclass(frozen=True)
class Settings:
    """No settings. It must come after `number_visits`, which needs the hours."""


def needs(settings: Settings) -> str:
    """How far apart events are."""
    return "intervals"


def apply(events: pl.DataFrame, settings: Settings, fitted: None = None) -> pl.DataFrame:
    """Moves each time to the end of its day, since before that not all of the day is known; the order stays."""
    return events.with_columns(pl.col("time").dt.truncate("1d").dt.offset_by("1d") - pl.duration(microseconds=1))
