"""Few-shot learning: a linear model on k positives and k negatives of train, for many k and several draws.

As in EHRSHOT (Wornow et al. 2023), k + k labels of tuning choose C. The shots are drawn by a seed, or read from the
file `all_shots_data.json` that EHRSHOT publishes.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from scipy import sparse

from ehrjax.core import files
from ehrjax.core.errors import InputError
from ehrjax.evals.baselines import designs, linear
from ehrjax.evals.baselines.fitting import Task, check_vectors
from ehrjax.evals.settings import SHOTS
from ehrjax.ingest.labels.reading import SPLIT
from ehrjax.ingest.meds import TRAIN, TUNING

# EHRSHOT's k for all labels.
ALL = -1
_MINUTE = 60_000_000


@dataclass(frozen=True)
class Shots:
    """The labels of one draw.

    Attributes:
      k: positives, and negatives; ALL: all there are.
      replicate: number of the draw.
      train: rows of train to fit on.
      tuning: rows of tuning to choose C by; perhaps none.
    """

    k: int
    replicate: int
    train: np.ndarray
    tuning: np.ndarray


@dataclass(frozen=True)
class FewShot:
    """What a model fitted on one draw says.

    Attributes:
      k, replicate: of the draw.
      rows: [M] the labels outside train and tuning.
      values: [M] probabilities.
      chosen: C and the tuning loss.
    """

    k: int
    replicate: int
    rows: np.ndarray
    values: np.ndarray
    chosen: dict[str, Any]


def draw_shots(task: Task, *, shots: Sequence[int] = SHOTS, replicates: int = 5) -> tuple[list[Shots], dict[int, str]]:
    """Draws k positives and k negatives of train, and as many of tuning where there are.

    The shots of one replicate are nested: those of a smaller k are among those of a larger.

    Args:
      task: yes-or-no labels; its seed draws.
      shots: numbers k; ALL takes every label.
      replicates: draws for each k (one for ALL).

    Returns:
      The draws, and k -> why there is none.

    Raises:
      InputError: the labels are no yes-or-no labels, or a number is out of range.
    """
    _need_yes_no(task)
    if replicates < 1 or any(k < 1 and k != ALL for k in shots):
        raise InputError(f"Few-shot needs numbers of shots from 1 on (or {ALL} for all) and at least one replicate.")
    yes = task.outcomes.truth[:, 0] > 0
    classes = {
        split: (rows[yes[rows]], rows[~yes[rows]]) for split, rows in ((TRAIN, task.train), (TUNING, task.tuning))
    }
    found: list[Shots] = []
    skipped: dict[int, str] = {}
    for replicate in range(replicates):
        rng = np.random.default_rng([task.seed, replicate])
        mixed = {split: [rng.permutation(rows) for rows in pair] for split, pair in classes.items()}
        for k in shots:
            if k == ALL:
                if replicate == 0:
                    found.append(Shots(ALL, 0, task.train, task.tuning))
                continue
            positives, negatives = (len(rows) for rows in classes[TRAIN])
            if k > min(positives, negatives):
                skipped[k] = f"train has {positives} positives and {negatives} negatives"
                continue
            train, tuning = (np.sort(np.concatenate([rows[:k] for rows in mixed[split]])) for split in (TRAIN, TUNING))
            found.append(Shots(k, replicate, train, tuning))
    order = {k: i for i, k in enumerate(shots)}
    return sorted(found, key=lambda shot: (order[shot.k], shot.replicate)), skipped


def few_shot(vectors: np.ndarray | sparse.csr_matrix, task: Task, shots: Sequence[Shots]) -> list[FewShot]:
    """Fits a linear model on each draw and asks it of every label outside train and tuning.

    No label is seen but those drawn. Vectors are standardised on all of train, which needs no labels: the spread of two
    vectors says nothing. Where the tuning labels of a draw have one class or none, C is not chosen but fixed.

    Args:
      vectors: [N, D] of the task's labels, in their order, dense or sparse.
      task: yes-or-no labels.
      shots: from `draw_shots` or `read_shots`.

    Raises:
      InputError: the labels are no yes-or-no labels, or the vectors are of other labels.
    """
    _need_yes_no(task)
    check_vectors(vectors, len(task.split))
    asked = np.flatnonzero(~np.isin(np.asarray(task.split), (TRAIN, TUNING)))
    x = designs.standardised(vectors, task.train)
    truth = task.outcomes
    found = []
    for shot in shots:
        tuning = shot.tuning if truth.take(shot.tuning).varies else shot.tuning[:0]
        model, chosen = linear.fit_path(x[shot.train], truth.take(shot.train), x[tuning], truth.take(tuning))
        found.append(FewShot(shot.k, shot.replicate, asked, model.predict(x[asked])[:, 0], chosen))
    return found


def read_shots(path: str | Path, sub_task: str, labels: pl.DataFrame, task: Task) -> list[Shots]:
    """The published shots of a task, found among its labels by subject, time (to the minute) and value.

    Args:
      path: all_shots_data.json: {sub task: {k: {replicate: {patient_ids_train_k, label_times_train_k,
        label_values_train_k, the same for val, ...}}}}.
      sub_task: whose shots.
      labels: [N] subject_id, prediction_time and split.
      task: of the same labels.

    Returns:
      In order of k (ALL last) and replicate.

    Raises:
      InputError: the file is malformed, has no such task, or holds shots that are not among the labels of their split.
    """
    _need_yes_no(task)
    path = Path(path)
    whole = files.read_json(path, what="EHRSHOT shots")
    if sub_task not in whole:
        raise InputError(f"{path} has no shots for {sub_task!r}; it has {', '.join(sorted(whole)) or 'none'}.")
    minutes = labels["prediction_time"].cast(pl.Datetime("us")).to_physical().to_numpy() // _MINUTE
    yes = task.outcomes.truth[:, 0] > 0
    places: dict[tuple[str, int, int, bool], list[int]] = {}
    keys = zip(labels[SPLIT].to_list(), labels["subject_id"].to_list(), minutes.tolist(), yes.tolist())
    for row, key in enumerate(keys):
        places.setdefault(key, []).append(row)
    found = []
    for k, replicates in _entries(whole[sub_task], path):
        for replicate, shot in _entries(replicates, path):
            train = _rows(shot, TRAIN, "train", places, path)
            tuning = _rows(shot, TUNING, "val", places, path)
            if not len(train):
                raise InputError(f"{path} has no shots of train for {sub_task}, k {k}, replicate {replicate}.")
            found.append(Shots(k, replicate, train, tuning))
    return sorted(found, key=lambda shot: (shot.k == ALL, shot.k, shot.replicate))


def _need_yes_no(task: Task) -> None:
    if task.target.kind != "yes_no":
        raise InputError(f"Few-shot is for yes-or-no labels, not for labels of {task.target.kind}.")


def _entries(table: object, path: Path) -> list[tuple[int, Any]]:
    """(number, entry) of a JSON object with numbers as its keys."""
    if not isinstance(table, Mapping):
        raise InputError(f"{path} is no file of shots: a task holds objects by k and replicate.")
    try:
        return [(int(key), entry) for key, entry in table.items()]
    except ValueError as error:
        raise InputError(f"{path} is no file of shots: {error}.") from error


def _rows(
    shot: object, split: str, short: str, places: Mapping[tuple[str, int, int, bool], list[int]], path: Path
) -> np.ndarray:
    """The rows of the labels that a draw names in one split, rising."""
    names = [f"{what}_{short}_k" for what in ("patient_ids", "label_times", "label_values")]
    if not isinstance(shot, Mapping) or not all(isinstance(shot.get(name), list) for name in names):
        raise InputError(f"{path} is no file of shots: a replicate needs the lists {', '.join(names)}.")
    ids, times, values = (shot[name] for name in names)
    if len({len(ids), len(times), len(values)}) > 1:
        raise InputError(f"{path} is no file of shots: {', '.join(names)} differ in length.")
    used: dict[tuple[str, int, int, bool], int] = {}
    rows = []
    for subject, told, value in zip(ids, times, values):
        try:
            key = (split, int(subject), _minute(told), bool(value))
        except (TypeError, ValueError) as error:
            raise InputError(f"{path} is no file of shots: {error}.") from error
        # Several labels of one minute and value are taken one after another.
        number = used.get(key, 0)
        if number >= len(places.get(key, ())):
            raise InputError(
                f"{path} has a shot (subject {subject}, {told}, {value}) that is not among the labels of {split}; give "
                "the labels and the splits that the shots were drawn from."
            )
        rows.append(places[key][number])
        used[key] = number + 1
    return np.sort(np.array(rows, np.int64))


def _minute(text: str) -> int:
    time = datetime.datetime.fromisoformat(text).replace(tzinfo=datetime.UTC)
    return int(time.timestamp() // 60)
