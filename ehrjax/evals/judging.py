"""The labels to judge by, of every split that is needed, from runs' tokens, from label files, or from predictions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ehrjax.core.errors import InputError
from ehrjax.data import labelled
from ehrjax.evals import judged, past, predicting, prediction_files
from ehrjax.evals.judged import Judged
from ehrjax.evals.prediction_files import KEYS, Predictions
from ehrjax.evals.settings import Settings
from ehrjax.ingest import meds
from ehrjax.ingest.labels import reading
from ehrjax.ingest.meds import TRAIN, TUNING


def collect(runs: Mapping[str, Any], predictions: Mapping[str, str], settings: Settings) -> Judged:
    """The labels of train, tuning and the judged split, as far as there are any.

    Args:
      runs: name -> an opened run; only labels that each has a window for are judged.
      predictions: name -> file or folder; without labels the first one's truth is taken.
      settings: of the evaluation.

    Raises:
      InputError: the judged split is one that was trained on, or has no labels.
    """
    warnings = []
    if settings.split == TRAIN:
        if not settings.force:
            raise InputError("The split train is what models are trained on; judge by another one, or add --force.")
        warnings.append("Judged by the split that models were trained on: nothing here holds for new subjects.")
    if settings.split == TUNING:
        warnings.append(
            "Judged by tuning, on which models stopped and penalties were chosen: these numbers are too good."
        )
    if not settings.labels:
        found = _of_files(predictions, settings, warnings)
    else:
        labels = judged.read(settings.labels, settings.decode)
        found = _of_runs(runs, labels, settings, warnings) if runs else _of_labels(labels, settings, warnings)
    found = _of_period(found, settings)
    _warn_of_deaths(found, settings.split)
    return found


def _warn_of_deaths(found: Judged, split: str) -> None:
    """Metrics of times know censoring alone, and no competing events."""
    if found.target.kind != "time" or "censored_by_death" not in found.labels.frame.columns:
        return
    own = found.truth[split].keys.join(found.labels.frame, on=list(KEYS), how="left", maintain_order="left")
    if died := int(own["censored_by_death"].sum()):
        found.warnings.append(
            f"{died:,} of {len(own):,} labels end by a death before the event, which counts as censoring: C, AUC and "
            "Brier score are of what would come if nobody died of anything else."
        )


def _of_period(found: Judged, settings: Settings) -> Judged:
    """Only labels of the time that is asked for are judged.

    Raises:
      InputError: there are none.
    """
    own, split = found.truth[settings.split], settings.split
    if not len(own):
        raise InputError(f"There is no label of {split} that every run has a window for.")
    if settings.since is None and settings.until is None:
        return found
    time, kept = pl.col("prediction_time"), pl.lit(True)
    kept = kept & (time >= settings.since) if settings.since is not None else kept
    kept = kept & (time < settings.until) if settings.until is not None else kept
    chosen = own.keys.filter(kept)
    if not len(chosen):
        times = own.keys["prediction_time"]
        raise InputError(
            f"No label of {split} is of the time asked for by --since and --until; they are of {times.min()} to "
            f"{times.max()}."
        )
    found.warnings.append(
        f"{len(chosen):,} of the {len(own):,} labels of {split} are of the time asked for, and judged."
    )
    if TRAIN in found.truth and (known := len(found.truth[TRAIN].keys.filter(kept))):
        found.warnings.append(
            f"{known:,} labels of train are of the time that is judged: what was learnt from them is not older than it."
        )
    return replace(found, truth={**found.truth, split: judged.aligned(own, chosen)})


def _of_runs(runs: Mapping[str, Any], labels: reading.Labels, settings: Settings, warnings: list[str]) -> Judged:
    tokens: dict[str, judged.Tokens] = {}
    for name, run in runs.items():
        path = settings.input or run.config["data"].get("path")
        if not path:
            raise InputError(f"{run.folder} was converted, so it has no tokens of its own; name some as --input.")
        own = judged.join(run, labels, path, tuple(dict.fromkeys((TRAIN, TUNING, settings.split))))
        tokens[name] = own
        if settings.split not in own.parts:
            raise InputError(f"No label of {labels.name} can be asked of a subject in {settings.split} of {path}.")
        known, asked = past.of(run), predicting.keys_of(own.parts[settings.split])["subject_id"].to_numpy()
        seen = known.trained(asked)
        if seen and not settings.force:
            raise InputError(
                f"{name}, or what it started from, was trained on {seen:,} of the subjects in {settings.split}; judge "
                "by others, or add --force."
            )
        if seen:
            warnings.append(f"{name} was trained on {seen:,} of the judged subjects: its numbers are too good.")
        if settings.split != TUNING and (tuned := known.tuned(asked)):
            warnings.append(f"{name} stopped by {tuned:,} of the judged subjects (tuning): its numbers are too good.")
        if not known.whole:
            warnings.append(
                f"Not all that {name}, or what it started from, was trained on is still there as it was: whether it "
                "knows these subjects is unsure."
            )
        tasks = predicting.tasks_of(run)
        if tasks and labels.name not in tasks:
            warnings.append(f"{name} was trained on {', '.join(tasks)} and is judged by {labels.name}.")
    first = next(iter(tokens.values()))
    truth = {}
    for split in first.parts:
        parts = [own.parts[split] for own in tokens.values() if split in own.parts]
        if len(parts) == len(tokens):
            truth[split] = _common(parts, first.target)
    every = {}
    for split in truth:
        ids = first.dataset.split(split).subject_ids
        frame = labels.frame.filter(pl.col("subject_id").is_in(pl.Series(ids).implode()))
        every[split] = _of_frame(labels, frame, first.target)
    return Judged(labels, first.target, truth, every, tokens, warnings)


def _of_labels(labels: reading.Labels, settings: Settings, warnings: list[str]) -> Judged:
    labels = replace(labels, frame=_with_splits(labels.frame, settings, warnings))
    train = labels.frame.filter(pl.col(reading.SPLIT) == TRAIN)["subject_id"].unique().to_numpy()
    target = labelled.target_of(labels, train if len(train) else labels.frame["subject_id"].unique().to_numpy())
    truth = {}
    for split in dict.fromkeys((TRAIN, TUNING, settings.split)):
        frame = labels.frame.filter(pl.col(reading.SPLIT) == split)
        if split == settings.split and not len(frame):
            raise InputError(
                f"The labels {labels.name} hold none of the split {split}; make them with `prepare labels`, which "
                "writes a folder a split."
            )
        if len(frame):
            truth[split] = _of_frame(labels, frame, target)
    return Judged(labels, target, truth, truth, {}, warnings)


def _with_splits(frame: pl.DataFrame, settings: Settings, warnings: list[str]) -> pl.DataFrame:
    """The labels that say their split; where a file does not, the events do, and without these all are judged.

    Raises:
      InputError: a subject is in two splits, so that what is fitted would know whom it is judged by.
    """
    if settings.events and (unsaid := frame[reading.SPLIT].null_count()):
        known = meds.open_dataset(settings.events).splits.select("subject_id", pl.col("split").alias("_known"))
        frame = frame.join(known, on="subject_id", how="left", maintain_order="left")
        frame = frame.with_columns(pl.coalesce(reading.SPLIT, "_known").alias(reading.SPLIT)).drop("_known")
        found = unsaid - frame[reading.SPLIT].null_count()
        warnings.append(f"{found:,} labels do not say their split: it is that of the events {settings.events}.")
    unsaid = frame[reading.SPLIT].null_count()
    if unsaid == len(frame):
        # Somebody's labels, all of them to judge by.
        warnings.append(f"The labels do not say their split: all of them are taken for {settings.split}.")
        return frame.with_columns(pl.lit(settings.split).alias(reading.SPLIT))
    if unsaid:
        warnings.append(f"{unsaid:,} labels do not say their split and are left out.")
        frame = frame.drop_nulls(reading.SPLIT)
    by_subject = frame.group_by("subject_id").agg(pl.col(reading.SPLIT).unique().sort())
    several = by_subject.filter(pl.col(reading.SPLIT).list.len() > 1).sort("subject_id")
    if len(several):
        raise InputError(
            f"The labels have {len(several):,} subjects in several splits (the first: {several['subject_id'][0]} in "
            f"{' and '.join(several[reading.SPLIT][0])}); put all labels of a subject into one."
        )
    return frame


def _of_frame(labels: reading.Labels, frame: pl.DataFrame, target: labelled.Target) -> Predictions:
    """Keys and truth of some of the labels."""
    values, known = labelled.values_of(replace(labels, frame=frame), target)
    return _sorted(target, frame.select(*KEYS).filter(pl.Series(known)), values[known])


def _of_files(predictions: Mapping[str, str], settings: Settings, warnings: list[str]) -> Judged:
    """The truth as the files of predictions say it: of each split the first that has it."""
    if not predictions:
        raise InputError("Name what to evaluate: --workdir=RUN with --labels=DIR, or --predictions=FILE.")
    truth: dict[str, Predictions] = {}
    for given in predictions.values():
        for split, path in files_of(given, settings.split).items():
            made = prediction_files.read(path) if split not in truth else None
            if made is not None and made.truth is not None:
                truth[split] = _sorted(made.target, made.keys, made.truth)
    if settings.split not in truth:
        given = next(iter(predictions.values()))
        raise InputError(f"{given} holds no truth (such as boolean_value); name the labels as --labels.")
    check_apart(truth, settings.split)
    if truth.get(TUNING, truth[settings.split]).target != truth[settings.split].target:
        kinds = " and ".join(truth[split].target.kind for split in (TUNING, settings.split))
        raise InputError(
            f"The files hold other labels of tuning than of {settings.split} ({kinds}); leave tuning.parquet out."
        )
    _refuse_train(truth[settings.split].keys, settings, warnings)
    target = truth[settings.split].target
    name = Path(next(iter(predictions.values()))).stem
    return Judged(reading.Labels(name, "", pl.DataFrame(), {}), target, truth, truth, {}, warnings)


def _refuse_train(keys: pl.DataFrame, settings: Settings, warnings: list[str]) -> None:
    """Raises InputError where the events have subjects to judge by in train, as far as events are given."""
    if not settings.events or settings.split == TRAIN:
        return
    splits = meds.open_dataset(settings.events).splits
    train = splits.filter(pl.col("split") == TRAIN)["subject_id"]
    seen = int(keys["subject_id"].unique().is_in(train.implode()).sum())
    if not seen:
        return
    if not settings.force:
        raise InputError(
            f"{seen:,} of the subjects to judge by are in the split train of {settings.events}; judge by others, or "
            "add --force."
        )
    warnings.append(f"{seen:,} of the judged subjects are in the split train of {settings.events}.")


def check_apart(truth: Mapping[str, Predictions], split: str) -> None:
    """Raises InputError where subjects to judge by are among those that thresholds are chosen on."""
    if TUNING not in truth or split == TUNING:
        return
    own = [truth[name].keys["subject_id"].unique() for name in (TUNING, split)]
    both = own[1].filter(own[1].is_in(own[0].implode()))
    if len(both):
        raise InputError(
            f"{len(both):,} subjects are in {TUNING}.parquet and in {split}.parquet (the first: {both.sort()[0]}); "
            "what is chosen on tuning must not know whom it is judged by."
        )


def files_of(path: str, split: str) -> dict[str, Path]:
    """split -> file of what was given as predictions: a file of the judged split, or a folder with one a split."""
    given = Path(path)
    if not given.is_dir():
        return {split: given}
    found = {name: given / f"{name}.parquet" for name in (TUNING, split) if (given / f"{name}.parquet").is_file()}
    if split not in found:
        raise InputError(f"{given} holds no {split}.parquet; name a file, or a folder with a file a split.")
    return found


def _sorted(target: labelled.Target, keys: pl.DataFrame, values: np.ndarray) -> Predictions:
    """Keys and truth, in order of the keys, without predictions."""
    order = keys.with_row_index("_at").sort(*KEYS)["_at"].to_numpy()
    return Predictions(target, keys[order], values[order], np.zeros((len(keys), 0), np.float32))


def _common(parts: list[labelled.LabelledSplit], target: labelled.Target) -> Predictions:
    """The labels that all runs have a window for."""
    own = _sorted(target, predicting.keys_of(parts[0]), parts[0].labels)
    for part in parts[1:]:
        both = own.keys.join(predicting.keys_of(part), on=list(KEYS), how="semi", maintain_order="left")
        own = judged.aligned(own, both)
    return own
