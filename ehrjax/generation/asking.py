"""When subjects are asked about: label files, one time for all, the end of the record, or behind a token."""

from __future__ import annotations

import datetime
from collections.abc import Sequence

import numpy as np
import polars as pl

from ehrjax.core.batch import MICROSECONDS_PER_MINUTE
from ehrjax.core.errors import InputError
from ehrjax.data.token_dataset import Split, Subject

LAST = "last"
AFTER = "after:"
_EPOCH = datetime.datetime(1970, 1, 1)


def at(splits: Sequence[Split], text: str, *, tokens: np.ndarray | None = None, offset: int = 0) -> pl.DataFrame:
    """Every subject of the splits once, with its prediction time.

    Args:
      splits: whose subjects.
      text: 'last' (the time of the last token), 'after:...' (the last time at which one of `tokens` stands), or a date
        or time (ISO 8601) for all.
      tokens: [V] bool, for 'after:'.
      offset: minutes to add.

    Returns:
      subject_id, prediction_time (datetime[us]). Subjects without a time (no timed token, none of the tokens, nothing
      on record by then) are left out.

    Raises:
      InputError: the text is none of these, or nobody is left.
    """
    fixed = None
    if text != LAST and not text.startswith(AFTER):
        try:
            fixed = (datetime.datetime.fromisoformat(text) - _EPOCH) // datetime.timedelta(microseconds=1)
        except (ValueError, TypeError) as error:
            raise InputError(
                f"--at={text} is not 'last', 'after:CODE' or a time without a zone such as 2015-06-30."
            ) from error
    rows = []
    for split in splits:
        for index in range(len(split)):
            subject = split.subject(index)
            time = _time(subject, text, tokens) if fixed is None else fixed
            if time is not None:
                time += offset * MICROSECONDS_PER_MINUTE
                if (subject.times[subject.num_static :] <= time).any():
                    rows.append((subject.subject_id, time))
    if not rows:
        raise InputError(f"--at={text} leaves no subject of {', '.join(s.name for s in splits)} to ask about.")
    frame = pl.DataFrame(rows, schema={"subject_id": pl.Int64, "prediction_time": pl.Int64}, orient="row")
    return frame.with_columns(pl.col("prediction_time").cast(pl.Datetime("us")))


def _time(subject: Subject, text: str, tokens: np.ndarray | None) -> int | None:
    timed = subject.times[subject.num_static :]
    if text == LAST:
        return int(timed[-1]) if len(timed) else None
    found = np.flatnonzero(tokens[subject.tokens[subject.num_static :]])
    return int(timed[found[-1]]) if len(found) else None
