"""The labels of several yes-or-no tasks as one: a row a subject and time, an answer a task, none where not asked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from ehrjax.core.errors import InputError
from ehrjax.ingest.labels.making import KEYS
from ehrjax.ingest.labels.reading import SPLIT, Labels, read_labels

ANSWERS = "answers"


def read_several(paths: Sequence[str | Path]) -> Labels:
    """Reads the labels of several tasks that ask for yes or no.

    Args:
      paths: label folders or files, as `read_labels` takes them.

    Returns:
      `value` is 'answers': [tasks] float32 lists of 1 (yes), 0 (no) and NaN (not asked at that time). info["tasks"] has
      the tasks' names, in order.

    Raises:
      InputError: a task that is no yes or no, two of one name, or labels that contradict each other.
    """
    tasks = [read_labels(path) for path in paths]
    names = [task.name for task in tasks]
    if len(set(names)) < len(names):
        raise InputError(f"Two of the label folders {', '.join(map(str, paths))} have one name; rename one.")
    parts = []
    for number, task in enumerate(tasks):
        if task.value != "boolean_value" or {"label_codes", "event_time_days"} & set(task.frame.columns):
            raise InputError(f"The labels {task.name} are no yes or no, so they cannot be learnt beside other tasks.")
        rows = task.frame.select(*KEYS, SPLIT, pl.col("boolean_value").cast(pl.Float32).alias(str(number))).unique(
            maintain_order=True
        )
        twice = rows.filter(rows.select(*KEYS).is_duplicated())
        if len(twice):
            raise InputError(
                f"The labels {task.name} of subject {twice['subject_id'][0]} at {twice['prediction_time'][0]} "
                "contradict each other; keep one."
            )
        parts.append(rows)
    frame = (
        pl.concat(parts, how="diagonal")
        .group_by(*KEYS, maintain_order=True)
        .agg(pl.col(SPLIT).unique(), pl.exclude(SPLIT).max())
    )
    unclear = frame.filter(pl.col(SPLIT).list.drop_nulls().list.len() > 1)
    if len(unclear):
        raise InputError(f"The label folders put subject {unclear['subject_id'][0]} into different splits.")
    answers = pl.concat_list(pl.col(str(i)).fill_null(float("nan")) for i in range(len(tasks)))
    frame = frame.select(*KEYS, pl.col(SPLIT).list.drop_nulls().list.first(), answers.alias(ANSWERS))
    return Labels("+".join(names), ANSWERS, frame.sort(*KEYS), {"tasks": names})
