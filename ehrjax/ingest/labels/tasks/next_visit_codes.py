"""The codes of the next visit (multi-label).

Eligible: every visit that holds a code of `role` (or of `codes`, where that is given), except the subject's last one.
Predicted at the time of the visit's last event. Outcome: which codes of the vocabulary occur in the next such visit,
the first one that starts strictly after the prediction time. The vocabulary is the `num_codes` codes that occur in
most visits of the train split; ties go by name. With `extract`, a regular expression with one group, the group stands
for the code (`ICD10CM//([A-Z]\\d\\d)` makes three-character categories), and codes without a match do not count.

Events with a visit id form visits by it; events without one form visits of their own, ended by a gap of more than
`gap_hours`. That a visit is over is known only afterwards, so the prediction times themselves look ahead.

Excluded: subjects dead by then; visits that no visit follows (within `horizon_days`, if that is set). A next visit none
of whose codes is in the vocabulary stays, with an empty list. No censoring beyond that.

The closed label is the number of codes (integer); the extension holds label_codes (list of text, sorted), visit (the
number of the visit among the subject's eligible ones, from 0) and visit_id (null where the events have none). The
vocabulary is `vocabulary` in task.json.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from ehrjax.core.errors import InputError
from ehrjax.ingest.labels import candidates
from ehrjax.ingest.labels.at_visit_ends import at_visit_ends
from ehrjax.ingest.labels.record import Record
from ehrjax.ingest.meds import VISIT_COLUMN
from ehrjax.ingest.roles import check_patterns

VALUE = "integer_value"
EXTENSION: dict[str, pl.DataType] = {
    "label_codes": pl.List(pl.String),
    "visit": pl.Int32(),
    VISIT_COLUMN: pl.Int64(),
}
NO_NEXT = "no later visit"
LOOKS_AHEAD = frozenset({NO_NEXT})
ANCHORED_AHEAD = True


@dataclass(frozen=True)
class Settings:
    """Attributes:
    role: whose codes are predicted.
    codes: regular expressions to use instead of the role's.
    num_codes: size of the vocabulary.
    extract: a regular expression with one group that stands for the code; empty: the code itself.
    gap_hours: what ends a visit of events without a visit id.
    horizon_days: the next visit must start within so many days; 0: whenever.
    """

    role: str = "diagnosis"
    codes: tuple[str, ...] = ()
    num_codes: int = 500
    extract: str = ""
    gap_hours: float = 24.0
    horizon_days: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "codes", check_patterns(self.codes, "config.codes"))
        candidates.at_least("num_codes", self.num_codes, 1, most=1_000_000)
        candidates.positive("gap_hours", self.gap_hours)
        candidates.at_least("horizon_days", self.horizon_days, 0)
        if self.extract:
            check_patterns(self.extract, "config.extract")
            if re.compile(self.extract).groups != 1:
                raise InputError(f"config.extract is {self.extract!r}; it must have exactly one group.")


def needs(settings: Settings) -> candidates.Needs:
    times = candidates.INTERVALS if settings.horizon_days else candidates.ORDER
    return candidates.Needs(() if settings.codes else (settings.role,), {"codes": settings.codes}, times)


def _codes(record: Record, settings: Settings) -> pl.DataFrame:
    """The distinct codes of each visit that has one: visit, name."""
    rows = record.timed(settings.codes or record.roles.get(settings.role))
    name = pl.col("code").str.extract(settings.extract, 1) if settings.extract else pl.col("code")
    rows = rows.with_columns(name.alias("name")).filter(pl.col("name").is_not_null())
    return record.in_visits(rows, settings.gap_hours).select("visit", "name").unique(maintain_order=True)


def count(record: Record, settings: Settings) -> pl.DataFrame:
    """In how many visits each code occurs: key, count."""
    return _codes(record, settings).group_by(pl.col("name").alias("key")).agg(pl.len().cast(pl.Int64).alias("count"))


def fit(counts: Mapping[str, int], settings: Settings) -> list[str]:
    """The vocabulary: the most frequent codes, most frequent first."""
    return sorted(counts, key=lambda name: (-counts[name], name))[: settings.num_codes]


def label(record: Record, settings: Settings, vocabulary: list[str]) -> pl.DataFrame:
    """The candidates (`ehrjax.ingest.labels.tasks`)."""
    codes = _codes(record, settings)
    known = codes.filter(pl.col("name").is_in(vocabulary)).group_by("visit").agg(pl.col("name").sort())
    frame = at_visit_ends(record, codes["visit"].unique(), settings.gap_hours)
    frame = frame.join(known.rename({"visit": "next_visit"}), on="next_visit", how="left", maintain_order="left")
    frame = frame.with_columns(pl.col("name").fill_null([]).alias("label_codes"))
    frame = frame.with_columns(pl.col("label_codes").list.len().cast(pl.Int64).alias(VALUE))
    late = pl.col("next_start") > pl.col("prediction_time") + datetime.timedelta(
        days=settings.horizon_days or candidates.MOST_DAYS
    )
    return candidates.exclude(
        frame,
        (candidates.DEAD, pl.col("death") <= pl.col("prediction_time")),
        (NO_NEXT, pl.col("next_start").is_null() | late),
        ahead=LOOKS_AHEAD,
    )
