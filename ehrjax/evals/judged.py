"""Which labels predictions are judged by: read once, checked, and joined to each run's own tokens."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ehrjax.core.errors import InputError
from ehrjax.data import labelled, token_dataset
from ehrjax.data import notes as note_vectors
from ehrjax.evals import predicting
from ehrjax.evals.prediction_files import KEYS, Predictions
from ehrjax.ingest.labels import reading

TRUE_PROBABILITY = "true_probability"


def read(path: str | Path, decode: str = "") -> reading.Labels:
    """The labels of a task, one a subject and time.

    Raises:
      InputError: they cannot be read, or two of a subject and time contradict each other.
    """
    labels = reading.read_labels(path, decode=decode)
    frame = labels.frame.unique(maintain_order=True) if "label_codes" not in labels.frame.columns else labels.frame
    twice = frame.filter(frame.select(*KEYS).is_duplicated())
    if len(twice):
        raise InputError(
            f"The labels {path} have two labels of subject {twice['subject_id'][0]} at {twice['prediction_time'][0]}; "
            "keep one of each subject and time."
        )
    return replace(labels, frame=frame)


@dataclass(frozen=True)
class Tokens:
    """A run's token dataset and the labels in it.

    Attributes:
      dataset: the tokens.
      target: what the labels are; classes and codes of subjects in train.
      parts: split -> labelled windows.
    """

    dataset: token_dataset.TokenDataset
    target: labelled.Target
    parts: dict[str, labelled.LabelledSplit]


def join(
    run: Any,
    labels: reading.Labels,
    path: str | Path,
    splits: Sequence[str],
    *,
    target: labelled.Target | None = None,
) -> Tokens:
    """The labels as windows of a run's tokens.

    Args:
      run: an opened run.
      labels: of one task.
      path: the token dataset, in the run's vocabulary.
      splits: which are wanted; one without a label that can be asked is left out.
      target: what the labels are; None: as those of train have it, or, without such, as the run was trained.

    Raises:
      InputError: another vocabulary, or labels of subjects in another split than the tokens have them in.
    """
    dataset = token_dataset.open_tokens(path)
    if dataset.vocabulary.fingerprint != run.vocabulary.fingerprint:
        raise InputError(
            f"{path} is in another vocabulary ({len(dataset.vocabulary)} tokens) than {run.folder} "
            f"({len(run.vocabulary)}); prepare the tokens with --fitted-from, or convert the run's vocabulary."
        )
    target = target or _target(run, labels, dataset.split("train").subject_ids)
    parts = {}
    asked = labels.frame["subject_id"].unique().to_numpy()
    for name in splits:
        split = dataset.split(name)
        if not np.isin(asked, split.subject_ids).any():
            continue
        if notes := run.config["data"].get("notes"):
            newest = run.config["data"].get("newest_notes", 0)
            split = replace(split, notes=note_vectors.open_notes(notes, newest=newest))
        context = run.config["data"]["context_length"]
        with contextlib.suppress(labelled.NoLabelsError):
            parts[name] = labelled.join(split, labels, target, context_length=context, where=path)
    return Tokens(dataset, target, parts)


def _target(run: Any, labels: reading.Labels, train_subjects: np.ndarray) -> labelled.Target:
    kind = labelled.kind_of(labels)
    if kind in ("classes", "codes") and not np.isin(labels.frame["subject_id"].to_numpy(), train_subjects).any():
        if (run.folder / predicting.TARGET_FILE).is_file() and (own := predicting.target_of(run)).kind == kind:
            return own
    return labelled.target_of(labels, train_subjects)


@dataclass
class Judged:
    """The labels of all splits that are needed, and what became of others.

    Attributes:
      labels: as read.
      target: what they are.
      truth: split -> keys and truth; the values are empty.
      every: the same of all labels, those that some run has no window for included.
      tokens: run name -> its tokens and windows.
      warnings: sentences for the report.
    """

    labels: reading.Labels
    target: labelled.Target
    truth: dict[str, Predictions]
    every: dict[str, Predictions]
    tokens: dict[str, Tokens]
    warnings: list[str]


def aligned(made: Predictions, keys: pl.DataFrame) -> Predictions:
    """Predictions in the order of some keys; every key must be there."""
    places = keys.join(made.keys.with_row_index("_at"), on=list(KEYS), how="left", maintain_order="left")["_at"]
    chosen = places.to_numpy()
    truth = None if made.truth is None else made.truth[chosen]
    return Predictions(made.target, keys, truth, made.values[chosen], made.edges_days)


def foreign(
    made: Predictions, truth: Predictions, path: str | Path, *, partial: bool, every: Predictions | None = None
) -> Predictions:
    """Somebody's predictions of the judged labels, checked against these.

    Args:
      made: read from a file.
      truth: the judged labels: keys, truth, target; its values are not looked at.
      path: the file, for messages.
      every: all labels, those that some run has no window for included; None: the judged ones.
      partial: labels without predictions, and predictions without labels, are left out instead of refused.

    Raises:
      InputError: another kind of labels or other names, labels without predictions, predictions of subjects or times
        that are not among the labels, or a truth that contradicts them.
    """
    kind = truth.target.kind
    if made.target.kind != kind:
        raise InputError(f"{path} holds predictions of the kind {made.target.kind}, the labels are {kind}.")
    if kind in ("classes", "codes") and made.target.names != truth.target.names:
        raise InputError(f"{path} names other {kind} than the labels do; write it with the labels' own.")
    whole = truth if every is None else every
    extra = made.keys.join(whole.keys, on=list(KEYS), how="anti")
    if len(extra) and not partial:
        known = set(whole.keys["subject_id"].to_list())
        first = extra.row(0)
        what = "a subject without labels" if first[0] not in known else "a time without a label"
        raise InputError(
            f"{path} has {len(extra):,} predictions that belong to no label (the first: subject {first[0]} at "
            f"{first[1]} UTC, {what}); remove them, or leave them out by --partial."
        )
    lacking = truth.keys.join(made.keys, on=list(KEYS), how="anti")
    if len(lacking) and not partial:
        first = lacking.row(0)
        raise InputError(
            f"{path} lacks predictions for {len(lacking):,} of {len(truth):,} labels (the first: subject {first[0]} at "
            f"{first[1]}); add them, or compare what is there by --partial."
        )
    common = truth.keys.join(made.keys, on=list(KEYS), how="semi", maintain_order="left")
    if not len(common):
        raise InputError(f"{path} and the labels have no subject and time in common.")
    own = aligned(made, common)
    judged = aligned(truth, common)
    # Labels are float32; a file may have more digits.
    if own.truth is not None and (other := own.truth.astype(np.float32) != judged.truth.astype(np.float32)).any():
        row = int(np.flatnonzero(other.any(axis=1))[0])
        raise InputError(
            f"{path} says another truth than the labels of subject {common['subject_id'][row]} at "
            f"{common['prediction_time'][row]}; they are not about one task."
        )
    return Predictions(truth.target, common, judged.truth, own.values, own.edges_days)
