"""How a model's predictions hold up: on records made worse on purpose, and at other sites."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from ehrjax.core.errors import InputError
from ehrjax.data import token_dataset
from ehrjax.evals import comparing, degrading, judged, predicting
from ehrjax.evals.prediction_files import Predictions
from ehrjax.metrics import suites
from ehrjax.metrics.bootstrap import Resamples

# Labels that are predicted at each level, for time's sake; the first of a seeded order.
MOST_LABELS = 2000


def degraded(
    runs: Mapping[str, Any], found: judged.Judged, split: str, *, resamples: int, seed: int
) -> tuple[dict[str, Any], list[str]]:
    """The primary metric of each run at each level of each kind of damage.

    Args:
      runs: name -> a supervised run.
      found: the labels.
      split: the judged one.
      resamples, seed: of the bootstrap; the seed draws the damage too.

    Returns:
      kind -> meaning, and model -> level, value, low, high; and sentences about what could not be done.
    """
    told: dict[str, Any] = {}
    notes: list[str] = []
    for name, run in runs.items():
        part = found.tokens[name].parts[split]
        chosen = np.sort(np.random.default_rng(seed).permutation(len(part))[:MOST_LABELS])
        content = predicting.content_of(part)
        content = [content[i] for i in chosen]
        keys = predicting.keys_of(part)[chosen]
        drawn = Resamples.of(keys["subject_id"].to_numpy(), resamples=resamples, seed=seed)
        damage = degrading.Degrader(run.vocabulary, seed=seed)
        if len(chosen) < len(part):
            notes.append(f"{name}: on {len(chosen):,} of the {len(part):,} labels, drawn by the seed.")
        whole = None
        for kind, meaning in degrading.KINDS.items():
            if kind == "value_noise" and not damage.has_bins:
                notes.append(
                    f"{name}: no noise on values, since no token of its vocabulary is a bin of a code's values."
                )
                continue
            points = told.setdefault(kind, {"meaning": meaning, "models": {}})["models"].setdefault(name, [])
            for level in degrading.LEVELS[kind]:
                if level or whole is None:
                    windows = damage.windows(content, kind, level)
                    made = predicting.of_windows(
                        run, windows, found.target, found.labels.name, keys, part.labels[chosen]
                    )
                    measure = _primary(made, drawn).as_dict()
                    whole = whole or measure
                points.append({"level": level, **(measure if level else whole)})
    return told, notes


def sites(
    runs: Mapping[str, Any],
    given: Mapping[str, tuple[str, str]],
    target: Any,
    *,
    resamples: int,
    seed: int,
    force: bool = False,
) -> tuple[list[dict[str, Any]], list[str]]:
    """The primary metric of each run on all labels of other sites.

    Args:
      runs: name -> a supervised run.
      given: site -> (token dataset in the runs' vocabulary, labels).
      target: what the labels are.
      resamples, seed: of the bootstrap.
      force: judge by a site that holds subjects of train.

    Returns:
      A row a site and run; and warnings.

    Raises:
      InputError: a site holds subjects that a run was trained on, or is in another vocabulary.
    """
    told: list[dict[str, Any]] = []
    notes: list[str] = []
    for site, (tokens, path) in given.items():
        labels = judged.read(path)
        for name, run in runs.items():
            parts = _splits_with_labels(tokens, labels)
            joined = judged.join(run, labels, tokens, parts, target=target)
            made = [predicting.predict(run, joined.parts[split], target, labels.name) for split in parts]
            whole = _joined(made)
            if note := _check_apart(name, run, tokens, site, whole, force=force):
                notes.append(note)
            subjects = whole.keys["subject_id"].to_numpy()
            drawn = Resamples.of(subjects, resamples=resamples, seed=seed)
            told.append(
                {
                    "name": site,
                    "model": name,
                    "labels": len(whole),
                    "subjects": int(len(np.unique(subjects))),
                    "metric": _primary(whole, drawn).as_dict(),
                }
            )
    return told, notes


def _primary(made: Predictions, drawn: Resamples) -> suites.Measure:
    """The metric that stands for all; of times it needs no follow-up of train."""
    measured = suites.measure(comparing.as_target(made), comparing.as_prediction(made, 0.5), drawn)
    return measured[comparing.PRIMARY[made.target.kind]]


def _check_apart(name: str, run: Any, tokens: str, site: str, made: Predictions, *, force: bool) -> str:
    """A warning where a site has ids that the run was trained on.

    Raises:
      InputError: the site is of the dataset that the run was trained on.
    """
    there = token_dataset.open_tokens(tokens).info
    try:
        own = token_dataset.open_tokens(run.config["data"]["path"]).info
    except InputError:
        return f"{name}: its tokens are gone, so whether {site} is another site is unsure."
    seen, _ = judged.trained_on(run, made.keys["subject_id"].to_numpy())
    same = there["source_fingerprint"] == own["source_fingerprint"] or (
        there["source"].get("dataset_name") == own["source"].get("dataset_name")
    )
    if seen and same and not force:
        raise InputError(
            f"{tokens} holds {seen:,} subjects that {run.folder} was trained on; name another site, or add --force."
        )
    return f"{name}: {seen:,} ids of {site} are ids of its train split too; they must be other people." if seen else ""


def _splits_with_labels(tokens: str, labels: Any) -> tuple[str, ...]:
    dataset = token_dataset.open_tokens(tokens)
    asked = labels.frame["subject_id"].unique().to_numpy()
    there = [name for name in token_dataset.SPLITS if np.isin(asked, dataset.split(name).subject_ids).any()]
    if not there:
        raise InputError(f"No label of {labels.name} belongs to a subject of {tokens}.")
    return tuple(there)


def _joined(parts: Sequence[Predictions]) -> Predictions:
    first = parts[0]
    return Predictions(
        first.target,
        pl.concat([part.keys for part in parts]),
        np.concatenate([part.truth for part in parts]),
        np.concatenate([part.values for part in parts]),
        first.edges_days,
    )
