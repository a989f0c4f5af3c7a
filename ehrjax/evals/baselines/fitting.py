"""Baselines by name: fitted on train, everything about them chosen on tuning, asked on the other labels."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy import sparse

from ehrjax.core.errors import InputError
from ehrjax.data.labelled import Target
from ehrjax.evals.baselines import boosting, designs, linear, previous
from ehrjax.evals.baselines.features import Features
from ehrjax.evals.baselines.outcomes import Outcomes, kaplan_meier, outcomes, survival_of
from ehrjax.ingest.meds import TRAIN, TUNING

MAJORITY, AGE_SEX, COUNTS_LR, COUNTS_GBM, PREVIOUS, PROBE, TREES = (
    "majority",
    "age_sex",
    "counts_lr",
    "counts_gbm",
    "previous",
    "probe",
    "trees",
)
LABELS = {
    MAJORITY: "same for all",
    AGE_SEX: "age and sex",
    COUNTS_LR: "linear on counts",
    COUNTS_GBM: "boosted trees on counts",
    PREVIOUS: "codes come again",
    PROBE: "linear on vectors",
    TREES: "boosted trees on vectors",
}
# The kinds of labels (Target.kind) that there are baselines for.
KINDS = ("yes_no", "classes", "codes", "number", "time")
# The most frequent codes that get a linear model each; the others keep their rate in train.
MOST_CODES = 100
# Columns of boosted trees, beside age and sex; and of the linear models of codes.
TREE_COLUMNS, CODE_COLUMNS = 600, 300
# With more numbers than these it is fewer columns, but not under the least.
TREE_CELLS, LEAST_TREE_COLUMNS = 100_000_000, 100


@dataclass(frozen=True)
class Task:
    """N labels to be predicted.

    Attributes:
      target: what they are.
      values: [N, K] from `labelled.values_of`.
      split: [N] train, tuning or held_out.
      known: [N] bool from `labelled.values_of`; None: all.
      edges_days: time: ends of the intervals, rising; the first begins at 0.
      seed: draws what is drawn.

    Raises:
      InputError: the sizes differ, no known label is in train, or the edges do not rise.
    """

    target: Target
    values: np.ndarray
    split: np.ndarray
    known: np.ndarray | None = None
    edges_days: tuple[float, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        if len(self.values) != len(self.split) or (self.known is not None and len(self.known) != len(self.split)):
            raise InputError("values, split and known must have a row a label each.")
        if not len(self.train):
            raise InputError("No label is in train; baselines are fitted there.")
        _ = self.outcomes

    @cached_property
    def outcomes(self) -> Outcomes:
        """Of all N."""
        return outcomes(self.target, self.values, self.edges_days)

    def _rows(self, split: str) -> np.ndarray:
        there = np.asarray(self.split) == split
        return np.flatnonzero(there if self.known is None else there & self.known)

    @cached_property
    def train(self) -> np.ndarray:
        """Rows of known labels in train."""
        return self._rows(TRAIN)

    @cached_property
    def tuning(self) -> np.ndarray:
        """Rows of known labels in tuning."""
        return self._rows(TUNING)

    @cached_property
    def predicted(self) -> np.ndarray:
        """[M] rows outside train, whatever is known of them."""
        return np.flatnonzero(np.asarray(self.split) != TRAIN)


@dataclass(frozen=True)
class Fitted:
    """What a baseline says of the labels outside train.

    Attributes:
      name: of the baseline.
      label: the same for a reader.
      rows: [M] the labels, rising.
      values: yes_no [M] probability; classes and codes [M, K]; number [M]; time [M] risk by the last edge.
      survival: time: [M, J] probability of no event by each edge; else None.
      edges_days: time: [J]; else empty.
      chosen: what was chosen on tuning, and `fallback` with a reason where nothing could be fitted.
      seconds: spent.
    """

    name: str
    label: str
    rows: np.ndarray
    values: np.ndarray
    survival: np.ndarray | None
    edges_days: tuple[float, ...]
    chosen: dict[str, Any]
    seconds: float


def baselines_for(kind: str) -> tuple[str, ...]:
    """The baselines for a kind of labels (one of KINDS), in the order in which they are reported.

    Raises:
      InputError: there is none for the kind.
    """
    if kind not in KINDS:
        raise InputError(f"There are no baselines for labels of {kind!r}; there are some for {', '.join(KINDS)}.")
    last = {"codes": (PREVIOUS,), "time": ()}.get(kind, (COUNTS_GBM,))
    return (MAJORITY, AGE_SEX, COUNTS_LR, *last)


def fit(name: str, features: Features, task: Task) -> Fitted:
    """Fits a baseline.

    Args:
      name: of `baselines_for(task.target.kind)`.
      features: of the task's N labels, in their order.
      task: the labels.

    Raises:
      InputError: there is no such baseline for the labels, or the features are of other labels.
    """
    names = baselines_for(task.target.kind)
    if name not in names:
        raise InputError(f"{name!r} is no baseline for labels of {task.target.kind}; there are {', '.join(names)}.")
    if len(features) != len(task.split):
        raise InputError(f"There are features of {len(features)} labels, but {len(task.split)} labels.")
    fitters = {
        MAJORITY: lambda: (_same_for_all(task), {}),
        AGE_SEX: lambda: _linear(task, {"": lambda: designs.age_and_sex(features, task.train)}),
        COUNTS_LR: lambda: _linear(
            task, {how: lambda how=how: designs.linear_design(features, task.train, how) for how in designs.SCALES}
        ),
        COUNTS_GBM: lambda: _boosted(features, task),
        PREVIOUS: lambda: _previous(features, task),
    }
    return _fitted(name, LABELS[name], task, fitters[name])


def fit_all(features: Features, task: Task) -> list[Fitted]:
    """All baselines for a task's kind of labels, in the order of `baselines_for`."""
    return [fit(name, features, task) for name in baselines_for(task.target.kind)]


def probe(
    vectors: np.ndarray | sparse.csr_matrix, task: Task, *, name: str = PROBE, label: str = LABELS[PROBE]
) -> Fitted:
    """A linear model on vectors, standardised on train; C is chosen on tuning.

    Args:
      vectors: [N, D] of the task's labels, in their order.
      task: the labels.
      name, label: of the result.

    Raises:
      InputError: the vectors are of other labels, or not finite.
    """
    check_vectors(vectors, len(task.split))
    made = {"": lambda: designs.standardised(vectors, task.train)}
    return _fitted(name, label, task, lambda: _linear(task, made))


def tree_probe(vectors: np.ndarray, task: Task, *, name: str = TREES, label: str = LABELS[TREES]) -> Fitted:
    """Boosted trees on vectors [N, D] of the task's labels, in their order, as those on counts.

    Raises:
      InputError: the vectors are of other labels, or not finite, or the labels are of a kind that has no trees.
    """
    check_vectors(vectors, len(task.split))
    check_trees(task.target.kind)
    return _fitted(name, label, task, lambda: _trees(np.asarray(vectors, np.float32), task))


def check_trees(kind: str) -> None:
    """Raises InputError for a kind of labels that boosted trees are not fitted on."""
    if COUNTS_GBM not in baselines_for(kind):
        raise InputError(f"Boosted trees are not fitted on labels of {kind!r}; probe with linear models.")


def check_vectors(vectors: np.ndarray | sparse.csr_matrix, labels: int) -> None:
    """Raises InputError unless vectors are finite [labels, D]."""
    if vectors.ndim != 2 or vectors.shape[0] != labels:
        raise InputError(f"The vectors have shape {vectors.shape}; there must be one for each of {labels} labels.")
    if not np.isfinite(vectors.data if sparse.issparse(vectors) else vectors).all():
        raise InputError("Some vectors hold NaN or infinity; leave out what has no vector.")


# [M, J] probabilities, numbers or hazards of the rows asked for, and what was chosen.
_Fit = Callable[[], tuple[np.ndarray, dict[str, Any]]]


def _fitted(name: str, label: str, task: Task, fitter: _Fit) -> Fitted:
    start = time.perf_counter()
    if task.outcomes.take(task.train).varies:
        found, chosen = fitter()
    else:
        found, chosen = _same_for_all(task), {"fallback": "the labels of train are all the same"}
    survival = None
    if task.target.kind == "time":
        survival = survival_of(found)
        if name == MAJORITY or "fallback" in chosen:
            survival = np.tile(kaplan_meier(task.values[task.train], task.edges_days), (len(task.predicted), 1))
        found = 1.0 - survival[:, -1:]
    values = found if task.target.kind in ("classes", "codes") else found[:, 0]
    seconds = time.perf_counter() - start
    return Fitted(name, label, task.predicted, values, survival, tuple(task.edges_days), chosen, seconds)


def _same_for_all(task: Task) -> np.ndarray:
    """[M, J] the mean of train: rate, class shares, mean, or (for time) a place to fill."""
    return np.tile(task.outcomes.truth[task.train].mean(axis=0), (len(task.predicted), 1))


def _linear(task: Task, made: dict[str, Callable[[], linear.Matrix]]) -> tuple[np.ndarray, dict[str, Any]]:
    """The best of several designs (by name; made when needed) with the best C each."""
    truth, columns, path = task.outcomes, None, {}
    if task.target.kind == "codes":
        often = truth.truth[task.train].sum(axis=0)
        columns = np.sort(np.argsort(-often, kind="stable")[:MOST_CODES])
        truth = Outcomes(truth.kind, truth.truth[:, columns], truth.exposure[:, columns])
        # A hundred models at once: one design, fewer columns, a coarser grid.
        made = dict(list(made.items())[:1])
        path = {"grid": linear.GRID[::2], "tolerance": 1e-6}
    best: tuple[np.ndarray, dict[str, Any]] | None = None
    for how, make in made.items():
        x = make()
        if columns is not None:
            x = designs.telling(x, task.train, truth.truth[task.train], CODE_COLUMNS)
        x_train, x_tuning = x[task.train], x[task.tuning]
        model, chosen = linear.fit_path(x_train, truth.take(task.train), x_tuning, truth.take(task.tuning), **path)
        chosen |= {"scale": how} if how else {}
        if best is None or chosen["tuning_loss"] < best[1]["tuning_loss"]:
            best = (model.predict(x[task.predicted]), chosen)
        if not len(task.tuning):
            break
    found, chosen = best
    if columns is not None and len(columns) < task.outcomes.truth.shape[1]:
        whole = _same_for_all(task)
        whole[:, columns] = found
        found, chosen = whole, chosen | {"codes": len(columns)}
    return found, chosen


def _boosted(features: Features, task: Task) -> tuple[np.ndarray, dict[str, Any]]:
    room = TREE_CELLS // len(task.train)
    most = min(TREE_COLUMNS, max(room, LEAST_TREE_COLUMNS))
    x = designs.tree_design(features, task.train, task.outcomes.truth[task.train], most)
    if not x.shape[1]:
        return _same_for_all(task), {"fallback": "train has no feature"}
    return _trees(x, task)


def _trees(x: np.ndarray, task: Task) -> tuple[np.ndarray, dict[str, Any]]:
    rows = (task.train, task.tuning, task.predicted)
    found, chosen = boosting.fit_boosted(x, task.outcomes, *rows, seed=task.seed)
    return found, chosen | {"columns": x.shape[1]}


def _previous(features: Features, task: Task) -> tuple[np.ndarray, dict[str, Any]]:
    state = previous.states(features, task.target.names)
    return previous.fit_previous(state, task.outcomes.truth, task.train, task.tuning, task.predicted)
