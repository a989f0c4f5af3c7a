"""[SEP] between the visits of a subject, as in BEHRT."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from ehrjax.vocab.recipe import SEP
from ehrjax.vocab.step_rows import beside, inserted, named

CATEGORIES = True


@dataclass(frozen=True)
class Settings:
    """No settings; `number_visits` must come before."""


def apply(events: pl.DataFrame, settings: Settings, fitted: None = None) -> pl.DataFrame:
    """Puts [SEP] between visits.

    It belongs to the visit that it closes but carries the time of the next visit's first event, because only then
    is it known that the visit has ended.
    """
    previous = pl.col("visit").shift(1)
    same = pl.col("subject_id") == pl.col("subject_id").shift(1)
    starts = (pl.col("visit") > 0) & same & (pl.col("visit") != previous)
    separators = named(beside(events, starts), SEP).with_columns((pl.col("visit") - 1).cast(pl.Int32))
    return inserted(events, before=[separators])
