"""When subjects are asked about: one time or one age for all, the end of the record, or behind a token."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence

import numpy as np
import polars as pl

from ehrjax.core.batch import MICROSECONDS_PER_MINUTE
from ehrjax.core.errors import InputError
from ehrjax.data.rows import MICROSECONDS_PER_YEAR
from ehrjax.data.token_dataset import Split, Subject

LAST = "last"
AFTER = "after:"
AGE = "age:"
_EPOCH = datetime.datetime(1970, 1, 1)


def at(splits: Sequence[Split], text: str, *, tokens: np.ndarray | None = None, offset: int = 0) -> pl.DataFrame:
    """Every subject of the splits once, with its prediction time.

    Args:
      splits: whose subjects.
      text: 'last' (the time of the last token), 'after:...' (the last time at which one of `tokens` stands), 'age:60'
        (so many years after birth), or a date or time (ISO 8601) for all.
      tokens: [V] bool, for 'after:'.
      offset: minutes to add.

    Returns:
      subject_id, prediction_time (datetime[us]). Subjects without a time (no timed token, none of the tokens, no birth,
      nothing on record by then) are left out. Who is dead by then `alive` tells.

    Raises:
      InputError: the text is none of these, or nobody is left.
    """
    time_of = _times(text, tokens)
    rows = []
    for split in splits:
        for index in range(len(split)):
            subject = split.subject(index)
            time = time_of(subject)
            if time is not None:
                time += offset * MICROSECONDS_PER_MINUTE
                if (subject.times[subject.num_static :] <= time).any():
                    rows.append((subject.subject_id, time))
    if not rows:
        raise InputError(f"--at={text} leaves no subject of {', '.join(s.name for s in splits)} to ask about.")
    frame = pl.DataFrame(rows, schema={"subject_id": pl.Int64, "prediction_time": pl.Int64}, orient="row")
    return frame.with_columns(pl.col("prediction_time").cast(pl.Datetime("us")))


def alive(splits: Sequence[Split], asked: pl.DataFrame, ends: np.ndarray) -> tuple[pl.DataFrame, int]:
    """Those rows of (subject_id, prediction_time) whose subject's record has not ended by then, and how many it had.

    Subjects that are in none of the splits stay, to be complained of.

    Raises:
      InputError: none is left.
    """
    places = {int(s): (split, i) for split in splits for i, s in enumerate(split.subject_ids)}
    ended: dict[int, int] = {}
    for subject_id in asked["subject_id"].unique().to_list():
        if subject_id in places:
            split, index = places[subject_id]
            subject = split.subject(index)
            found = np.flatnonzero(ends[subject.tokens[subject.num_static :]])
            if len(found):
                ended[subject_id] = int(subject.times[subject.num_static + found[0]])
    times = asked["prediction_time"].cast(pl.Datetime("us")).to_physical().to_list()
    kept = [at < ended.get(s, at + 1) for s, at in zip(asked["subject_id"].to_list(), times)]
    if not any(kept):
        raise InputError("All prediction times lie at or behind a death on record; there is no future to sample.")
    return asked.filter(pl.Series(kept)), len(kept) - sum(kept)


def _times(text: str, tokens: np.ndarray | None) -> Callable[[Subject], int | None]:
    """The function that gives a subject's time, microseconds since 1970, or None."""
    if text == LAST:
        return lambda subject: _at(subject, np.arange(subject.num_static, len(subject.times)))
    if text.startswith(AFTER):
        return lambda subject: _at(
            subject, np.flatnonzero(tokens[subject.tokens[subject.num_static :]]) + subject.num_static
        )
    try:
        if text.startswith(AGE):
            years = float(text.removeprefix(AGE))
            if not 0 <= years <= 150:
                raise ValueError(text)
            lived = round(years * MICROSECONDS_PER_YEAR)
            return lambda subject: None if subject.birth_time is None else subject.birth_time + lived
        fixed = (datetime.datetime.fromisoformat(text) - _EPOCH) // datetime.timedelta(microseconds=1)
        return lambda subject: fixed
    except (ValueError, TypeError, OverflowError) as error:
        raise InputError(
            f"--at={text} is not 'last', 'after:CODE', 'age:YEARS' or a time without a zone such as 2015-06-30."
        ) from error


def _at(subject: Subject, places: np.ndarray) -> int | None:
    return int(subject.times[places[-1]]) if len(places) else None
