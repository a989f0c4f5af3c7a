"""Features of each label's history, counted in windows of time from MEDS events; what exists is decided on train.

A window of w days holds the events with prediction_time - w days < time <= prediction_time; one of `inf` days holds the
whole history. Births are no events here: the age tells them. Static rows are features of their own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl
from scipy import sparse

from ehrjax.core.errors import InputError
from ehrjax.evals.baselines import measurements
from ehrjax.evals.baselines.histories import MICROSECONDS_A_DAY, Piece, pieces, ranges
from ehrjax.evals.baselines.roll_up import parents_of, roll_up_matrix
from ehrjax.evals.baselines.subject_groups import UNKNOWN, sexes
from ehrjax.ingest import roles
from ehrjax.ingest.labels.reading import SPLIT
from ehrjax.ingest.meds import TRAIN, VISIT_COLUMN, MedsDataset

COUNT, STATIC, EVENTS, VISITS = "count", "static", "events", "visits"


@dataclass(frozen=True)
class Settings:
    """What is counted.

    Attributes:
      windows_days: lengths of the windows, rising; `inf` is the whole history.
      value_windows_days: the same for numeric values.
      parents: whether a code counts for its parents in metadata/codes.parquet, and theirs.
      prefixes: whether it counts for the shorter codes it begins with (`roll_up.prefix`).
      min_subjects: how many subjects of train must have a feature.
      max_counts: how many counts are kept, those of most train subjects.
      max_values: how many codes and windows have their values kept, those of most train subjects.
    """

    windows_days: tuple[float, ...] = (1.0, 30.0, 365.0, math.inf)
    value_windows_days: tuple[float, ...] = (30.0, math.inf)
    parents: bool = True
    prefixes: bool = True
    min_subjects: int = 10
    max_counts: int = 5_000
    max_values: int = 150

    def __post_init__(self) -> None:
        for name in ("windows_days", "value_windows_days"):
            days = getattr(self, name)
            if any(not b > a for a, b in zip((0.0, *days), days)):
                raise InputError(f"{name} is {days}; it must be numbers above 0 that rise.")
        if not self.windows_days:
            raise InputError("windows_days is empty; name at least one window.")
        for name in ("min_subjects", "max_counts"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least 1.")


@dataclass(frozen=True)
class Features:
    """Features of N labels, in their order.

    Attributes:
      counts: [N, F1] float32 CSR.
      count_names: [F1] `count|30d|CODE`, `static|CODE`, `events|all`, `visits|all`.
      values: [N, F2] float32, NaN where there is none.
      value_names: [F2] `last|all|CODE`, ..., `log_hours|30d` (from the window's first event to the prediction time),
        `log_days_since_last` (from the last event before the prediction time); both log(1 + x).
      ages: [N] float64 years; NaN where unknown.
      sexes: [N] female, male or unknown.
    """

    counts: sparse.csr_matrix
    count_names: tuple[str, ...]
    values: np.ndarray
    value_names: tuple[str, ...]
    ages: np.ndarray
    sexes: np.ndarray

    def __len__(self) -> int:
        return len(self.ages)


def window_name(days: float) -> str:
    """What a window is called in the names of features: `30d`, `all`."""
    return "all" if math.isinf(days) else f"{days:g}d"


def count_features(dataset: MedsDataset, labels: pl.DataFrame, settings: Settings = Settings()) -> Features:
    """Counts what is known of each label's subject at its prediction time.

    Which features there are follows from the labels in train alone.

    Args:
      dataset: an opened MEDS dataset.
      labels: [N] subject_id, prediction_time and perhaps split (see `splits_of`), in any order.
      settings: what is counted.

    Raises:
      InputError: no label is in train, no subject is in the dataset, or a file is damaged.
    """
    is_train = splits_of(dataset, labels) == TRAIN
    if not is_train.any():
        raise InputError(f"No label is of a subject in train of {dataset.folder}; features are chosen there.")
    counting = _Counting(settings, len(labels), _subject_numbers(labels), is_train)
    own = roles.of(dataset)
    for piece in pieces(dataset, labels, ("numeric_value", VISIT_COLUMN)):
        counting.add(piece, own)
    return counting.finish(parents_of(dataset.codes) if settings.parents else {})


def splits_of(dataset: MedsDataset, labels: pl.DataFrame) -> np.ndarray:
    """[N] the split of each label: what its column split says, else the dataset's; empty for a subject of neither."""
    own = dataset.splits.select(pl.col("subject_id").cast(pl.Int64), pl.col("split").alias("_own"))
    joined = labels.join(own.unique("subject_id", keep="first"), on="subject_id", how="left", maintain_order="left")
    told = [pl.col(SPLIT).cast(pl.String)] if SPLIT in labels.columns else []
    return joined.select(pl.coalesce(*told, "_own", pl.lit("")))[:, 0].to_numpy().astype(str)


def _subject_numbers(labels: pl.DataFrame) -> np.ndarray:
    return np.unique(labels["subject_id"].to_numpy(), return_inverse=True)[1]


@dataclass(frozen=True)
class _Part:
    """What a piece gave, in codes as they lie in the file.

    Attributes:
      rows: [n] labels.
      bins: [windows] of [n, C] counts of what a window holds beyond the one before.
      static: [n, C] counts of static codes.
      visits: [n, windows] visits in each window.
    """

    rows: np.ndarray
    bins: list[sparse.csr_matrix]
    static: sparse.csr_matrix
    visits: np.ndarray


@dataclass
class _Counting:
    """Collects pieces; `subjects` [N] numbers the labels' subjects, `is_train` [N] says which labels are in train."""

    settings: Settings
    size: int
    subjects: np.ndarray
    is_train: np.ndarray
    numbers: dict[str, int] = field(default_factory=dict)
    parts: list[_Part] = field(default_factory=list)

    def __post_init__(self) -> None:
        windows = self.settings.windows_days
        self.long: list[list[pl.DataFrame]] = [[] for _ in self.settings.value_windows_days]
        self.ages = np.full(self.size, np.nan)
        self.sexes = np.full(self.size, UNKNOWN, object)
        self.spans = np.full((self.size, len(windows) + 1), np.nan, np.float32)

    def add(self, piece: Piece, own: roles.Roles) -> None:
        """Counts a piece."""
        local, names = piece.codes()
        lookup = np.array([self.numbers.setdefault(name, len(self.numbers)) for name in sorted(names)], np.int32)
        ranks = np.argsort(np.argsort(np.array(names, object))) if names else np.zeros(0, int)
        codes = lookup[ranks][local]
        self.ages[piece.rows] = piece.ages()
        self.sexes[piece.rows] = sexes(piece, own)
        begins = [_begin(piece, days) for days in self.settings.windows_days]
        visits = _visit_numbers(piece.events[VISIT_COLUMN])
        width = len(self.numbers)
        ends = [piece.stop, *begins[:-1]]
        self.parts.append(
            _Part(
                piece.rows,
                [_tally(codes, begin, end, width) for begin, end in zip(begins, ends)],
                _tally(codes, piece.static, piece.start, width),
                np.stack([_distinct(visits, begin, piece.stop) for begin in begins], axis=1),
            )
        )
        for k, begin in enumerate(begins):
            self.spans[piece.rows, k] = _since(piece, begin, begin < piece.stop, MICROSECONDS_A_DAY / 24)
        before = piece.known_by(piece.asked - 1) - 1
        self.spans[piece.rows, -1] = _since(piece, before, before >= piece.start, MICROSECONDS_A_DAY)
        for long, days in zip(self.long, self.settings.value_windows_days):
            long.append(measurements.summarised(piece, codes, _begin(piece, days)))

    def finish(self, parents: dict[str, list[str]]) -> Features:
        """The features of all labels, those that train has enough of."""
        counts, count_names = self._counts(parents)
        values, value_names = self._values()
        return Features(counts, count_names, values, value_names, self.ages, self.sexes.astype(str))

    def _counts(self, parents: dict[str, list[str]]) -> tuple[sparse.csr_matrix, tuple[str, ...]]:
        codes = list(self.numbers)
        up, above = roll_up_matrix(codes, parents, prefixes=self.settings.prefixes)
        alone, own = roll_up_matrix(codes, {}, prefixes=False)
        windows = [window_name(days) for days in self.settings.windows_days]
        blocks = [up] * len(windows) + [alone]
        names = [f"{COUNT}|{window}|{code}" for window in windows for code in above]
        names += [f"{STATIC}|{code}" for code in own]
        names += [f"{what}|{window}" for what in (EVENTS, VISITS) for window in windows]
        support = np.zeros(len(names), np.int64)
        for part in self.parts:
            train = np.flatnonzero(self.is_train[part.rows])
            have = _Part(part.rows[train], [b[train] for b in part.bins], part.static[train], part.visits[train])
            support += self._subjects_with(have.rows, sparse.hstack(_columns(have, blocks), format="csr"))
        chosen = _most(support, self.settings.min_subjects, self.settings.max_counts)
        bounds = np.cumsum([0, *(block.shape[1] for block in blocks)])
        kept = [block[:, chosen[(chosen >= a) & (chosen < b)] - a] for block, a, b in zip(blocks, bounds, bounds[1:])]
        rest = chosen[chosen >= bounds[-1]] - bounds[-1]
        rows, parts = [], []
        while self.parts:
            part = self.parts.pop(0)
            *counted, activity = _columns(part, kept)
            parts.append(sparse.hstack([*counted, activity[:, rest]], format="csr", dtype=np.float32))
            rows.append(part.rows)
        silent = np.setdiff1d(np.arange(self.size), np.concatenate(rows) if rows else np.zeros(0, int))
        parts.append(sparse.csr_matrix((len(silent), len(chosen)), dtype=np.float32))
        order = np.argsort(np.concatenate([*rows, silent]), kind="stable")
        matrix = sparse.vstack(parts, format="csr")[order]
        matrix.sort_indices()
        return matrix, tuple(names[i] for i in chosen)

    def _values(self) -> tuple[np.ndarray, tuple[str, ...]]:
        codes = list(self.numbers)
        by_name = np.argsort(np.array(codes, object)) if codes else np.zeros(0, int)
        windows = [window_name(days) for days in self.settings.value_windows_days]
        support = np.zeros((len(windows), len(codes)), np.int64)
        tables = [pl.concat(long) if long else pl.DataFrame(schema=measurements.LONG_SCHEMA) for long in self.long]
        self.long = []
        for k, long in enumerate(tables):
            row, code = long["row"].to_numpy(), long["code"].to_numpy()
            train = self.is_train[row]
            pair = np.unique(self.subjects[row[train]] * np.int64(max(len(codes), 1)) + code[train])
            support[k] = np.bincount(pair % max(len(codes), 1), minlength=len(codes))
        # Columns in order of the codes' names, whatever the order of the files.
        chosen = _most(support[:, by_name].ravel(), self.settings.min_subjects, self.settings.max_values)
        made, names = [], []
        for k, window in enumerate(windows):
            mine = [int(by_name[i - k * len(codes)]) for i in chosen if i // max(len(codes), 1) == k]
            made.append(measurements.table(tables[k], mine, self.size))
            names += [f"{what}|{window}|{codes[i]}" for i in mine for what in measurements.STATISTICS]
        names += [f"log_hours|{window_name(days)}" for days in self.settings.windows_days] + ["log_days_since_last"]
        return np.concatenate([*made, np.log1p(self.spans)], axis=1), tuple(names)

    def _subjects_with(self, rows: np.ndarray, matrix: sparse.csr_matrix) -> np.ndarray:
        """[F] how many subjects have a feature in one of their labels `rows` [n]; `matrix` [n, F] is theirs."""
        subjects, place = np.unique(self.subjects[rows], return_inverse=True)
        whose = sparse.csr_matrix(
            (np.ones(len(rows), np.float32), (place, np.arange(len(rows)))), (len(subjects), len(rows))
        )
        return np.bincount((whose @ matrix).indices, minlength=matrix.shape[1])


def _begin(piece: Piece, days: float) -> np.ndarray:
    """[n] the first row of the window of each label."""
    return piece.start if math.isinf(days) else piece.known_by(piece.asked - round(days * MICROSECONDS_A_DAY))


def _since(piece: Piece, row: np.ndarray, there: np.ndarray, unit: float) -> np.ndarray:
    """[n] float64: time from a row to the prediction time in units of so many microseconds; NaN where not there."""
    found = np.full(len(row), np.nan)
    found[there] = (piece.asked[there] - piece.times[row[there]]) / unit
    return found


def _visit_numbers(visits: pl.Series) -> np.ndarray:
    """[E] int32 the number of each event's visit; -1 for none."""
    return (visits.rank("dense").cast(pl.Int32).fill_null(0) - 1).to_numpy()


def _tally(codes: np.ndarray, begin: np.ndarray, end: np.ndarray, width: int) -> sparse.csr_matrix:
    """[n, width] float32: how often each code stands in the rows begin .. end of each label."""
    parts = [sparse.csr_matrix((0, width), dtype=np.float32)]
    counts = end - begin
    for some in measurements.blocks(counts, measurements.PAIRS):
        indices = codes[ranges(begin[some], counts[some])]
        indptr = np.concatenate([[0], np.cumsum(counts[some])])
        part = sparse.csr_matrix((np.ones(len(indices), np.float32), indices, indptr), (len(indptr) - 1, width))
        part.sum_duplicates()
        parts.append(part)
    return sparse.vstack(parts, format="csr")


def _distinct(numbers: np.ndarray, begin: np.ndarray, end: np.ndarray) -> np.ndarray:
    """[n] how many numbers (-1 is none) stand in the rows begin .. end of each label."""
    there = np.flatnonzero(numbers >= 0)
    width = int(numbers.max(initial=0)) + 1
    first, last = np.searchsorted(there, begin), np.searchsorted(there, end)
    return np.diff(_tally(numbers[there], first, last, width).indptr)


def _columns(part: _Part, blocks: Sequence[sparse.csr_matrix]) -> list[sparse.csr_matrix]:
    """The counts of a part in each window and of static codes, each times its block, and events and visits."""
    found, total, events = [], None, []
    for counts, block in zip(part.bins, blocks):
        total = counts if total is None else total + counts
        found.append(_widened(total, block.shape[0]) @ block)
        events.append(np.asarray(total.sum(axis=1)).ravel())
    found.append(_widened(part.static, blocks[-1].shape[0]) @ blocks[-1])
    return [
        *found,
        sparse.csr_matrix(np.concatenate([np.stack(events, axis=1), part.visits], axis=1, dtype=np.float32)),
    ]


def _widened(matrix: sparse.csr_matrix, width: int) -> sparse.csr_matrix:
    """A matrix with columns of codes that were met only later."""
    return sparse.csr_matrix((matrix.data, matrix.indices, matrix.indptr), (matrix.shape[0], width))


def _most(support: np.ndarray, least: int, most: int) -> np.ndarray:
    """The numbers of those with at least `least`, the `most` largest (the first of equals), in order."""
    enough = np.flatnonzero(support >= least)
    return np.sort(enough[np.argsort(-support[enough], kind="stable")][:most])
