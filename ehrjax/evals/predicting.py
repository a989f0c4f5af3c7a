"""What an opened run says of labels: predictions of its head, and frozen vectors for a probe."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ehrjax.core import files
from ehrjax.core.errors import InputError
from ehrjax.data.labelled import LabelledSplit, Target
from ehrjax.data.rows import MICROSECONDS_PER_DAY, MICROSECONDS_PER_YEAR, Window
from ehrjax.data.shared_windows import share
from ehrjax.evals import encodings, packed
from ehrjax.evals.prediction_files import Predictions

ROWS = 8
# Labels that share a window at most.
MOST = 64
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
    path = Path(run.folder) / TARGET_FILE
    found = files.read_json(path, what="supervised run's folder")
    if not {"kind", "names"} <= set(found):
        raise InputError(f"{path} does not say what the run predicts; it is damaged: restore it.")
    return Target(found["kind"], tuple(found["names"]))


def tasks_of(run: Any) -> tuple[str, ...]:
    """The names of the labels that a run was trained on, as far as it says."""
    path = Path(run.folder) / TARGET_FILE
    return tuple(files.read_json(path, what="supervised run's folder").get("tasks", ())) if path.is_file() else ()


def outputs(run: Any, content: Sequence[Window], asked: packed.Asked, key: str) -> np.ndarray:
    """[N, outputs] float32: one output of the run's objective for each label that is asked for."""
    found: np.ndarray | None = None
    for batch, told in packed.labelled(run, content, ROWS, asked):
        given = np.asarray(run.predictions(batch)[key], np.float32)
        if found is None:
            found = np.zeros((len(asked.window), given.shape[-1]), np.float32)
        for label, row, place in told:
            found[label] = given[row, place]
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
    given = run.config["data"]
    sharing = given.get("labels_per_window", 1) > 1  # as it was trained
    joined = _numbered(part, sharing, whole_visits=given.get("whole_visits", False))
    values, edges = _values(run, content_of(joined), asked_of(joined), task)
    return Predictions(target, keys_of(part), part.labels, values[np.argsort(joined.labels)], edges)


def of_windows(
    run: Any, content: Sequence[Window], target: Target, task: str, keys: pl.DataFrame, truth: np.ndarray
) -> Predictions:
    """As `predict`, of windows that are checked already, or changed on purpose, a label each; keys and truth are
    theirs."""
    times = keys["prediction_time"].to_physical().to_numpy()
    values, edges = _values(run, content, packed.whole(content, times), task)
    return Predictions(target, keys, truth, values, edges)


def _values(
    run: Any, content: Sequence[Window], asked: packed.Asked, task: str
) -> tuple[np.ndarray, tuple[float, ...]]:
    """What the run says of labels, in the columns of Predictions, and the ends of its intervals of time."""
    own = target_of(run)
    values = outputs(run, content, asked, OUTPUTS.get(own.kind, "probabilities"))
    edges: tuple[float, ...] = ()
    if own.kind == "tasks":
        values = values[:, [own.names.index(task)]]
    if own.kind == "time":
        edges = tuple(float(edge) for edge in run.objective.config.edges_days)
        values = np.concatenate([1 - values[:, -1:], values], axis=1)
    return values, edges


def _numbered(part: LabelledSplit, sharing: bool, *, whole_visits: bool) -> LabelledSplit:
    """The part with its labels' numbers for labels, those of a subject in shared windows if asked for."""
    numbered = replace(part, labels=np.arange(len(part.labels)))
    return share(numbered, most=MOST, whole_visits=whole_visits) if sharing else numbered


def asked_of(part: LabelledSplit) -> packed.Asked:
    """All labels of a part, in its order."""
    window = np.repeat(np.arange(len(part.windows)), np.diff(part.offsets))
    unseen = part.windows.stop[window] - part.stops
    return packed.Asked(window, part.windows.length[window] - unseen, part.prediction_times)


def moments(part: LabelledSplit) -> np.ndarray:
    """[N, 2] float32: when each labelled window is asked: the age then in years (0 where it is unknown), and the
    logarithm of 1 + the days since its last token."""
    windows, found = part.windows, np.zeros((len(part.labels), 2), np.float32)
    asked = zip(windows.subject.tolist(), part.stops.tolist(), part.prediction_times.tolist())
    for at, (place, stop, time) in enumerate(asked):
        subject = part.subject(place)
        if subject.birth_time is not None:
            found[at, 0] = (time - subject.birth_time) / MICROSECONDS_PER_YEAR
        found[at, 1] = np.log1p(max(time - int(subject.times[stop - 1]), 0) / MICROSECONDS_PER_DAY)
    return found


def vectors(run: Any, part: LabelledSplit, pools: Sequence[str]) -> dict[str, np.ndarray]:
    """What a frozen model knows at the end of each labelled window, pooled in several ways (`encodings.pooled`):
    pool -> [N, D]."""
    found: dict[str, np.ndarray] = {}
    for label, hidden, real, _ in seen(run, part, all_known=True):
        for pool in pools:
            if pool not in found:
                found[pool] = np.zeros((len(part.labels), hidden.shape[1]), np.float32)
            found[pool][label] = encodings.pooled(hidden, real, pool)
    return found


def seen(
    run: Any, part: LabelledSplit, *, all_known: bool = False
) -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
    """What the model knows of each label's tokens. Labels of one subject share a pass over its history where the model
    knows nothing of later tokens.

    Args:
      run: an opened run.
      part: labelled windows.
      all_known: with what else the model knows (`Run.states`).

    Yields:
      (number of the label, [n, D] float32 hidden states, [n] bool which tokens are codes, [n] int64 microseconds, their
      times), in the order in which they are done.
    """
    specials, future = run.vocabulary.num_specials, run.parts.sees_future
    joined = _numbered(part, future is not True, whole_visits=future == "visit")
    content, asked = content_of(joined), asked_of(joined)
    for window, hidden in encodings.hidden_states(run, content, all_known=all_known):
        subject, start, stop = content[window]
        places = np.concatenate([np.arange(subject.num_static), np.arange(start, stop)])
        real, times = subject.tokens[places] >= specials, subject.times[places]
        for at in range(*joined.offsets[window : window + 2]):
            own = slice(0, asked.size[at])
            yield int(joined.labels[at]), hidden[own], real[own], times[own]
