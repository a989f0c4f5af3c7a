"""What is compared: runs, files of predictions, and the true probabilities where they are known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl

from ehrjax.core import config as configs
from ehrjax.core.errors import InputError
from ehrjax.data.labelled import LabelledSplit
from ehrjax.evals import judged, judging, predicting, prediction_files, rated
from ehrjax.evals.comparing import Entry
from ehrjax.evals.judged import Judged
from ehrjax.evals.prediction_files import KEYS, Predictions
from ehrjax.ingest.meds import TUNING
from ehrjax.vocab.events import Event


def of_run(name: str, run: Any, found: Judged, split: str) -> Entry:
    """The predictions of a supervised run on tuning and the judged split."""
    made = _of_splits(name, found, split, lambda part: predicting.predict(run, part, found.target, found.labels.name))
    told = {
        "model": run.config["model"]["name"],
        "run": str(run.folder),
        "step": run.step,
        "config fingerprint": configs.fingerprint(run.config),
        "started from": run.config["init"]["checkpoint"] or "nothing",
        "trained on": run.config["data"]["labels"],
    }
    return Entry(name, name, "model", made[split], made.get(TUNING), told)


def _of_splits(
    name: str, found: Judged, split: str, predict: Callable[[LabelledSplit], Predictions]
) -> dict[str, Predictions]:
    """A run's predictions on tuning and the judged split, in the order of the labels."""
    parts = found.tokens[name].parts
    return {
        where: judged.aligned(predict(parts[where]), found.truth[where].keys)
        for where in dict.fromkeys((TUNING, split))
        if where in parts and where in found.truth
    }


def of_rates(name: str, run: Any, found: Judged, split: str, event: Event) -> Entry:
    """The risk that a run of times to events gives, without having seen a label."""
    made = _of_splits(name, found, split, lambda part: rated.predict(run, part, event))
    strings = [string for string, chosen in zip(run.vocabulary.strings, event.tokens) if chosen]
    more = f" and {len(strings) - 1} more" if len(strings) > 1 else ""
    told = {
        "run": str(run.folder),
        "risk of": f"{strings[0]}{more} within {event.days:g} days",
        "labels seen": "none",
    }
    return Entry(zero_shot_name(name), f"{name}, zero-shot", "model", made[split], made.get(TUNING), told)


def zero_shot_name(name: str) -> str:
    """Of the entry of a run's risks without labels."""
    return f"zero_shot_{name}"


def of_file(name: str, path: str, found: Judged, split: str, *, partial: bool) -> Entry:
    """Predictions from a file or folder. One file may hold the tuning rows too; the labels' splits tell them apart.

    Raises:
      InputError: it cannot be read, or does not fit the labels.
    """
    given = judging.files_of(path, split)
    read = {where: prediction_files.read(place) for where, place in given.items()}
    if TUNING in read and read[TUNING].edges_days != read[split].edges_days:
        raise InputError(f"{given[TUNING]} tells survival by other times than {given[split]}; write both by the same.")
    if TUNING in found.every and set(read) == {split} and split != TUNING:
        own, tuning = read[split], found.every[TUNING].keys
        both = own.keys.join(tuning, on=list(KEYS), how="semi", maintain_order="left")
        if len(both):
            rest = own.keys.join(tuning, on=list(KEYS), how="anti", maintain_order="left")
            read = {TUNING: judged.aligned(own, both), split: judged.aligned(own, rest)}
    made = {
        where: judged.foreign(
            own,
            found.truth[where],
            given.get(where, path),
            partial=partial or where != split,
            every=found.every[where],
        )
        for where, own in read.items()
        if where in found.truth
    }
    if TUNING in read and TUNING not in made:
        _take_tuning(made, read[TUNING], Path(given.get(TUNING, path)), name, split, found)
    elif TUNING in made and (lacking := len(found.truth[TUNING]) - len(made[TUNING])):
        found.warnings.append(f"{name} has no prediction for {lacking:,} labels of tuning; it is fitted on the others.")
    strangers = read[split].keys.join(found.every[split].keys, on=list(KEYS), how="anti")
    if len(strangers):
        found.warnings.append(f"{len(strangers):,} predictions of {name} belong to no label and are left out.")
    if lacking := len(found.truth[split]) - len(made[split]):
        found.warnings.append(f"{name} has no prediction for {lacking:,} labels; all models are judged without them.")
    return Entry(name, name, "model", made[split], made.get(TUNING), {"file": path})


def _take_tuning(
    made: dict[str, Predictions], own: Predictions, path: Path, name: str, split: str, found: Judged
) -> None:
    """Tuning as the file says it, where the labels do not tell which are tuning: of other subjects, and with a truth.

    Raises:
      InputError: it has subjects to judge by.
    """
    judging.check_apart({TUNING: own, split: made[split]}, split)
    if own.truth is None or own.target != found.target:
        found.warnings.append(f"{path} is left out: it does not hold the truth of its rows, nor do the labels.")
        return
    found.warnings.append(f"The labels do not say which are tuning: for {name} it is what {path} says.")
    made[TUNING] = own


def oracle(found: Judged, split: str) -> Entry | None:
    """The true probabilities, where labels of a known process have them.

    Raises:
      InputError: one of them is no probability.
    """
    frame = found.labels.frame
    if judged.TRUE_PROBABILITY not in frame.columns or found.target.kind != "yes_no":
        return None
    made = {}
    for where in dict.fromkeys((TUNING, split)):
        if where in found.truth:
            own = found.truth[where]
            rows = own.keys.join(frame, on=list(KEYS), how="left", maintain_order="left")[judged.TRUE_PROBABILITY]
            if wrong := len(rows.drop_nulls()) - int(rows.is_between(0, 1).sum()):
                raise InputError(
                    f"The labels {found.labels.name} have {wrong:,} times a {judged.TRUE_PROBABILITY} outside 0..1."
                )
            lacking = rows.null_count()
            if not lacking:
                made[where] = Predictions(found.target, own.keys, own.truth, rows.cast(pl.Float64).to_numpy()[:, None])
            elif where == split and lacking < len(rows):
                found.warnings.append(
                    f"{lacking:,} labels have no {judged.TRUE_PROBABILITY}, so the best possible is not told."
                )
    if split not in made:
        return None
    told = {"what it is": "the probability under the process that made the data, given everything recorded"}
    return Entry("oracle", "best possible", "oracle", made[split], made.get(TUNING), told)


def on_common_labels(entries: Sequence[Entry], keys: pl.DataFrame) -> list[Entry]:
    """All entries on those of some labels that each of them has a prediction for.

    Raises:
      InputError: there is no such label.
    """
    for entry in entries:
        keys = keys.join(entry.held_out.keys, on=list(KEYS), how="semi", maintain_order="left")
    if not len(keys):
        raise InputError("No label has a prediction of every model.")
    return [replace(entry, held_out=judged.aligned(entry.held_out, keys)) for entry in entries]
