"""Tokens for the time that has passed between events or visits."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from ehrjax.core.errors import InputError
from ehrjax.vocab.step_rows import beside, inserted, named

MINUTE = 60_000_000
HOUR, DAY = 60 * MINUTE, 1440 * MINUTE

# ETHOS's intervals by their lower bounds, in minutes (Renc et al. 2024; field names of ethos-ares): nothing below 5.
ETHOS = (
    ("5m-15m", 5),
    ("15m-45m", 15),
    ("45m-1h15m", 45),
    ("1h15m-2h", 75),
    ("2h-3h", 120),
    ("3h-5h", 180),
    ("5h-8h", 300),
    ("8h-12h", 480),
    ("12h-18h", 720),
    ("18h-1d", 1080),
    ("1d-2d", 1440),
    ("2d-4d", 2 * 1440),
    ("4d-7d", 4 * 1440),
    ("7d-12d", 7 * 1440),
    ("12d-20d", 12 * 1440),
    ("20d-30d", 20 * 1440),
    ("30d-2mt", 30 * 1440),
    ("2mt-6mt", 60 * 1440),
)
SIX_MONTHS = "=6mt"
_SIX_MONTHS_DAYS = 180


@dataclass(frozen=True)
class Settings:
    """Which tokens, and between what.

    Attributes:
      kind: 'cehr_bert' (W0..W3 under 28 days, M0..M11 under 360, LT), 'day' (D0..D1079, LT), 'mix' (D up to 7 days,
        W up to 30, M up to 360, LT) or 'ethos' (18 intervals from 5 minutes on, and =6mt once every 180 days).
      between: 'visits' (from the last event of a visit to the first of the next) or 'events'.
    """

    kind: str = "cehr_bert"
    between: str = "visits"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"recipe.time_tokens.kind is {self.kind!r}; choose one of {', '.join(KINDS)}.")
        if self.between not in ("visits", "events"):
            raise InputError(f"recipe.time_tokens.between is {self.between!r}; choose visits or events.")


def needs(settings: Settings) -> str:
    """How far apart events are."""
    return "intervals"


def apply(events: pl.DataFrame, settings: Settings, fitted: None = None) -> pl.DataFrame:
    """Puts tokens for the time passed before an event; they carry that event's time and visit.

    Only =6mt stands where it is known: the k-th of a run 180 k days after the event before, or at the next event where
    that is sooner. So what is on record at some time tells how long nothing has happened, not when something will.
    """
    if not len(events):
        return events
    subject, time = events["subject_id"], events["time"]
    follows = (subject == subject.shift(1)) & time.is_not_null() & time.shift(1).is_not_null()
    if settings.between == "visits":
        follows &= events["visit"] != events["visit"].shift(1)
    at = np.flatnonzero(follows.fill_null(False).to_numpy())
    micros = time.to_physical().fill_null(0).to_numpy()
    names, times = KINDS[settings.kind](micros[at] - micros[at - 1])
    chosen = times > 0
    # How often each row's token stands there: more than once only for =6mt.
    rows = beside(events, pl.Series(np.bincount(at[chosen], minlength=len(events)) > 0))
    rows = named(rows, pl.lit(pl.Series(names[chosen], dtype=pl.String)))
    repeats, before = times[chosen], micros[at[chosen] - 1]
    if len(rows):
        rows = rows.select(pl.all().repeat_by(pl.Series(repeats.astype(np.uint32))).explode())
        place = np.arange(len(rows)) - np.repeat(np.cumsum(repeats) - repeats, repeats)
        passed = np.repeat(before, repeats) + (place + 1) * _SIX_MONTHS_DAYS * DAY
        known = pl.min_horizontal(pl.lit(pl.Series(passed)).cast(pl.Datetime("us")), pl.col("time"))
        rows = rows.with_columns(pl.when(pl.col("code") == SIX_MONTHS).then(known).otherwise("time").alias("time"))
    return inserted(events, before=[rows])


def marks(strings: Sequence[str], settings: Settings) -> np.ndarray:
    """[N] bool: which strings are tokens of this step."""
    pattern = re.compile(_PATTERNS[settings.kind])
    return np.array([pattern.fullmatch(string) is not None for string in strings], bool)


def _cehr_bert(gap: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    days = gap // DAY
    weeks, months = _label("W", days // 7), _label("M", days // 30)
    names = np.where(days < 28, weeks, np.where(days < 360, months, "LT"))
    return np.where(days < 0, "W-1", names), np.ones(len(gap), np.int64)


def _day(gap: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    days = gap // DAY
    return np.where(days < 1080, _label("D", days), "LT"), np.ones(len(gap), np.int64)


def _mix(gap: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    days = gap // DAY
    weeks, months = _label("W", -(-days // 7)), _label("M", -(-days // 30))
    names = np.where(days <= 7, _label("D", days), np.where(days <= 30, weeks, np.where(days <= 360, months, "LT")))
    return names, np.ones(len(gap), np.int64)


def _ethos(gap: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    bounds = np.array([minutes for _, minutes in ETHOS]) * MINUTE
    place = np.searchsorted(bounds, gap, side="right") - 1
    long = gap >= _SIX_MONTHS_DAYS * DAY
    names = np.where(long, SIX_MONTHS, np.array([name for name, _ in ETHOS])[np.maximum(place, 0)])
    repeats = np.maximum(np.round(gap / (_SIX_MONTHS_DAYS * DAY)).astype(np.int64), 1)
    return names, np.where(place < 0, 0, np.where(long, repeats, 1))


def _label(letter: str, numbers: np.ndarray) -> np.ndarray:
    return np.char.add(letter, numbers.astype(str)) if len(numbers) else np.zeros(0, str)


# gap in microseconds -> the token of each gap and how often it stands there (0: not at all)
KINDS: dict[str, Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]] = {
    "cehr_bert": _cehr_bert,
    "day": _day,
    "mix": _mix,
    "ethos": _ethos,
}
_PATTERNS = {
    "cehr_bert": r"W-?\d+|M\d+|LT",
    "day": r"D-?\d+|LT",
    "mix": r"[DWM]-?\d+|LT",
    "ethos": "|".join(map(re.escape, [name for name, _ in ETHOS] + [SIX_MONTHS])),
}
