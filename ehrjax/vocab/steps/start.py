"""[CLS] in front of each subject."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from ehrjax.vocab.recipe import CLS
from ehrjax.vocab.step_rows import beside, first_of_subject, inserted, named

CATEGORIES = True


@dataclass(frozen=True)
class Settings:
    """No settings."""


def apply(events: pl.DataFrame, settings: Settings, fitted: None = None) -> pl.DataFrame:
    """Puts [CLS], a static token, in front of each subject."""
    first = named(beside(events, first_of_subject()), CLS)
    return inserted(events, before=[first.with_columns(pl.lit(None, pl.Datetime("us")).alias("time"))])
