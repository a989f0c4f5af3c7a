"""The events of labelled subjects, piece by piece, with where each label's history lies among them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from ehrjax.core.errors import InputError
from ehrjax.ingest.meds import BIRTH, MedsDataset, order_events

# Events read at once; a piece and its columns stay well below a gigabyte.
PIECE_EVENTS = 4_000_000
MICROSECONDS_A_DAY = 86_400_000_000
_YEAR = 365.25 * MICROSECONDS_A_DAY
NEVER = np.iinfo(np.int64).min


@dataclass(frozen=True)
class Piece:
    """Events of whole subjects and the labels of these subjects.

    Attributes:
      rows: [n] which labels they are, rising.
      asked: [n] int64 microseconds: their prediction times.
      static: [n] first static row of each label's subject in `events`; the timed rows follow.
      start: [n] first timed row of the subject.
      stop: [n] one past the last row that is known at the prediction time (inclusive).
      events: in MEDS order, births left out: subject_id, time, code (Categorical) and what else was asked for.
      times: [E] int64 microseconds; NEVER for static rows.
      births: [n] int64 microseconds; NEVER where none is known at the prediction time.
    """

    rows: np.ndarray
    asked: np.ndarray
    static: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    events: pl.DataFrame
    times: np.ndarray
    births: np.ndarray

    def known_by(self, times: np.ndarray) -> np.ndarray:
        """[n] one past the last row of each label's subject with a time up to and including `times` [n]."""
        low, high = self.start.copy(), self.stop.copy()
        while (unsure := low < high).any():
            middle = (low + high) // 2
            # A row at `high` may stand behind the last event; such labels are sure already.
            early = unsure & (self.times[np.minimum(middle, len(self.times) - 1)] <= times)
            low = np.where(early, middle + 1, low)
            high = np.where(unsure & ~early, middle, high)
        return low

    def codes(self) -> tuple[np.ndarray, list[str]]:
        """[E] the number of each event's code, and the codes by number."""
        numbers = self.events["code"].to_physical().to_numpy()
        own = self.events["code"].unique()
        physical = own.to_physical().to_numpy()
        lookup = np.zeros(int(physical.max()) + 1 if len(own) else 0, np.int32)
        lookup[physical] = np.arange(len(own))
        return lookup[numbers], own.cast(pl.String).to_list()

    def ages(self) -> np.ndarray:
        """[n] float64: years from birth to the prediction time; NaN where no birth is known."""
        known = self.births != NEVER
        return np.where(known, (self.asked - np.where(known, self.births, 0)) / _YEAR, np.nan)


def pieces(
    dataset: MedsDataset, labels: pl.DataFrame, columns: Sequence[str] = (), *, events: int = PIECE_EVENTS
) -> Iterator[Piece]:
    """The histories of labels, a piece of the dataset at a time; subjects without events are in none.

    Args:
      dataset: an opened MEDS dataset.
      labels: [N] subject_id and prediction_time; more columns are ignored.
      columns: columns of the events beside subject_id, time and code.
      events: about how many events are read at once.

    Raises:
      InputError: no subject of the labels is in the dataset, labels lack a column, or a file is damaged.
    """
    for name in ("subject_id", "prediction_time"):
        if name not in labels.columns:
            raise InputError(f"The labels have no column {name!r}; read them with ehrjax.ingest.labels.reading.")
    ids = labels["subject_id"].cast(pl.Int64).to_numpy()
    asked = labels["prediction_time"].cast(pl.Datetime("us")).to_physical().to_numpy()
    wanted = pl.Series(np.unique(ids)).implode()
    found = False
    for chunk in dataset.chunks(events):
        frame = dataset.read_chunk(chunk, ("subject_id", "time", "code", *columns), categories=True)
        frame = frame.filter(pl.col("subject_id").is_in(wanted))
        if len(frame):
            found = True
            yield _piece(order_events(frame), ids, asked)
    if len(ids) and not found:
        raise InputError(f"{dataset.folder} holds no subject of the labels; name the dataset that they were made from.")


def _piece(events: pl.DataFrame, ids: np.ndarray, asked: np.ndarray) -> Piece:
    is_birth = (events["code"].cast(pl.String) == BIRTH).to_numpy()
    born = events.filter(is_birth).select("subject_id", "time").drop_nulls().unique("subject_id", keep="first")
    here = np.unique(events["subject_id"].to_numpy())
    events = events.filter(~is_birth)
    subjects = events["subject_id"].to_numpy()
    times = events["time"].to_physical().fill_null(NEVER).to_numpy()
    rows = np.flatnonzero(np.isin(ids, here))
    asked = asked[rows]
    order = np.argsort(born["subject_id"].to_numpy())
    births = _looked_up(born["subject_id"].to_numpy()[order], born["time"].to_physical().to_numpy()[order], ids[rows])
    first = np.searchsorted(subjects, ids[rows], side="left")
    last = np.searchsorted(subjects, ids[rows], side="right")
    # Static rows come first, so how many there are before a row tells where the timed ones begin.
    statics = np.concatenate([[0], np.cumsum(times == NEVER)])
    start = first + statics[last] - statics[first]
    whole = Piece(rows, asked, first, start, last, events, times, np.where(births <= asked, births, NEVER))
    return Piece(rows, asked, first, start, whole.known_by(asked), events, times, whole.births)


def _looked_up(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """[n] the values of `wanted` among sorted keys; NEVER for those that are not there."""
    if not len(keys):
        return np.full(len(wanted), NEVER)
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[place] == wanted, values[place], NEVER)


def ranges(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """[sum of counts] int64: the runs starts[i], starts[i] + 1, ... of counts[i] numbers, one after another."""
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) + np.repeat(starts - (ends - counts), counts)
