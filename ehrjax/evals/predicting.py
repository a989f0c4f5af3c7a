"""What an opened run says of labels: predictions of its head, and frozen vectors for a probe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ehrjax.core import files
from ehrjax.core.errors import InputError
from ehrjax.data.labelled import LabelledSplit, Target
from ehrjax.data.rows import Window
from ehrjax.evals import encodings, packed
from ehrjax.evals.prediction_files import Predictions

ROWS = 8
TARGET_FILE = "target.json"
# Outputs of the supervised objectives, by the kind of the labels.
OUTPUTS = {"number": "values", "time": "survival"}


def content_of(part: LabelledSplit) -> list[Window]:
    """The windows of labels: (subject, start, stop), a label each."""
    tiled = part.windows
    columns = (tiled.subject.tolist(), tiled.start.tolist(), tiled.stop.tolist())
    return [(part.subject(place), start, stop) for place, start, stop in zip(*columns)]


def keys_of(part: LabelledSplit) -> pl.DataFrame:
    """[N] subject_id and prediction_time of labelled windows."""
    ids = part.subject_ids[part.windows.subject]
    times = pl.Series("prediction_time", part.prediction_times).cast(pl.Datetime("us"))
    return pl.DataFrame([pl.Series("subject_id", ids, dtype=pl.Int64), times])


def target_of(run: Any) -> Target:
    """What a run was trained to predict.

    Raises:
      InputError: it was not trained on labels.
    """
    if not (run.folder / TARGET_FILE).is_file():
        raise InputError(
            f"{run.folder} was not trained on labels (its objective is {run.config['objective']['name']}); fine-tune "
            "it with configs/finetune.py, or compare its frozen vectors with --probe."
        )
    found = files.read_json(Path(run.folder) / TARGET_FILE, what="supervised run's folder")
    return Target(found["kind"], tuple(found["names"]))


def tasks_of(run: Any) -> tuple[str, ...]:
    """The names of the labels that a run was trained on, as far as it says."""
    path = Path(run.folder) / TARGET_FILE
    return tuple(files.read_json(path, what="supervised run's folder").get("tasks", ())) if path.is_file() else ()


def outputs(run: Any, content: Sequence[Window], times: np.ndarray, key: str) -> np.ndarray:
    """[N, outputs] float32: one output of the run's objective for each window and prediction time (microseconds)."""
    found: np.ndarray | None = None
    for batch, placed in packed.batches(run, content, ROWS, times):
        given = np.asarray(run.predictions(batch)[key], np.float32)
        if found is None:
            found = np.zeros((len(content), given.shape[-1]), np.float32)
        for at in placed:
            found[at.window] = given[at.row, at.segment]
    return np.zeros((0, 1), np.float32) if found is None else found


def predict(run: Any, part: LabelledSplit, target: Target, task: str) -> Predictions:
    """The run's predictions of labelled windows.

    Args:
      run: an opened run that was trained on labels of the same kind; or on several tasks, one of which is `task`.
      part: the labels.
      target: what the labels are.
      task: their name.

    Raises:
      InputError: the run predicts something else.
    """
    own = target_of(run)
    if own.kind != target.kind and not (own.kind == "tasks" and target.kind == "yes_no"):
        raise InputError(f"{run.folder} predicts {own.kind}, but the labels {task} are {target.kind}.")
    if own.kind == "tasks" and task not in own.names:
        raise InputError(f"{run.folder} was trained on the tasks {', '.join(own.names)}, none of which is {task}.")
    if own.kind in ("classes", "codes") and own.names != target.names:
        raise InputError(f"{run.folder} was trained on other {own.kind} than those of the labels {task}.")
    return of_windows(run, content_of(part), target, task, keys_of(part), part.labels)


def of_windows(
    run: Any, content: Sequence[Window], target: Target, task: str, keys: pl.DataFrame, truth: np.ndarray
) -> Predictions:
    """As `predict`, of windows that are checked already, or changed on purpose; keys and truth are theirs."""
    own = target_of(run)
    times = keys["prediction_time"].to_physical().to_numpy()
    values = outputs(run, content, times, OUTPUTS.get(own.kind, "probabilities"))
    edges: tuple[float, ...] = ()
    if own.kind == "tasks":
        values = values[:, [own.names.index(task)]]
    if own.kind == "time":
        edges = tuple(float(edge) for edge in run.objective.config.edges_days)
        values = np.concatenate([1 - values[:, -1:], values], axis=1)
    return Predictions(target, keys, truth, values, edges)


def vectors(run: Any, part: LabelledSplit, pools: Sequence[str]) -> dict[str, np.ndarray]:
    """The frozen hidden states of each labelled window, pooled in several ways (`encodings.pooled`): pool -> [N, D]."""
    content, specials = content_of(part), run.vocabulary.num_specials
    found: dict[str, np.ndarray] = {}
    for i, hidden in encodings.hidden_states(run, content):
        subject, start, stop = content[i]
        shown = np.concatenate([subject.tokens[: subject.num_static], subject.tokens[start:stop]])
        for pool in pools:
            if pool not in found:
                found[pool] = np.zeros((len(content), hidden.shape[1]), np.float32)
            found[pool][i] = encodings.pooled(hidden, shown >= specials, pool)
    return found
