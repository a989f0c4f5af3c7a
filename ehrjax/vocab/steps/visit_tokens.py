"""Tokens around each visit and one for its type, as in CEHR-BERT: [VS], type, ..., [VE]."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from ehrjax.vocab.step_rows import ADDED, AT, at_rows, inserted, named
from ehrjax.vocab.steps.filter_codes import check_pattern, matches

START, END = "[VS]", "[VE]"
UNKNOWN_TYPE = "VISIT_TYPE//UNKNOWN"


@dataclass(frozen=True)
class Settings:
    """Which codes say of what type a visit is; `number_visits` must come before.

    Attributes:
      types: regular expressions; if a visit's first event matches one, its code is the type; behind [VS] of any other
        visit stands VISIT_TYPE//UNKNOWN. Empty: no types.
    """

    types: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "types", tuple(self.types))
        for pattern in self.types:
            check_pattern(pattern, "visit_tokens.types")


def apply(events: pl.DataFrame, settings: Settings, fitted: None = None) -> pl.DataFrame:
    """Puts [VS] (and the type, where it is unknown) before each visit and [VE] behind it.

    [VE] carries the time of what comes next, because only then is it known that the visit has ended; behind a
    subject's last event there is none, for the same reason.
    """
    rows = events.with_row_index(AT)
    # Between visits may stand tokens that were added before (time tokens): they stay between [VE] and [VS].
    real = rows.filter((pl.col("visit") >= 0) & pl.col("time").is_not_null() & ~pl.col(ADDED))
    same = (pl.col("subject_id") == pl.col("subject_id").shift(1)).fill_null(False)
    real = real.with_columns(
        (~same | (pl.col("visit") != pl.col("visit").shift(1))).fill_null(True).alias("_new"),
        pl.when(same).then(pl.col(AT).shift(1)).alias("_last"),
    )
    new = real.filter(pl.col("_new"))
    starts = at_rows(events, new[AT])
    closing = new.filter(pl.col("_last").is_not_null())
    ends = at_rows(events, closing["_last"]).with_columns(closing["time"])
    before = [named(starts, START)]
    if settings.types:
        before.append(named(starts.filter(~matches(settings.types)), UNKNOWN_TYPE))
    return inserted(events, before=before, after=[named(ends, END)])


def marks(strings: Sequence[str], settings: Settings) -> np.ndarray:
    """[N] bool: which strings are tokens of this step."""
    return np.array([string in (START, END, UNKNOWN_TYPE) for string in strings], bool)
