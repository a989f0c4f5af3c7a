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
    runs: Mapping[str, Any], given: Mapping[str, tuple[str, str]], target: Any, *, resamples: int, seed: int
) -> list[dict[str, Any]]:
    """The primary metric of each run on all labels of other sites.

    Args:
      runs: name -> a supervised run.
      given: site -> (token dataset in the runs' vocabulary, labels).
      target: what the labels are.
      resamples, seed: of the bootstrap.

    Raises:
      InputError: a site's tokens are those that a run was trained on, or in another vocabulary.
    """
    told = []
    for site, (tokens, path) in given.items():
        labels = judged.read(path)
        for name, run in runs.items():
            _check_apart(run, tokens)
            parts = _splits_with_labels(tokens, labels)
            joined = judged.join(run, labels, tokens, parts, target=target)
            made = [predicting.predict(run, joined.parts[split], target, labels.name) for split in parts]
            whole = _joined(made)
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
    return told


def _primary(made: Predictions, drawn: Resamples) -> suites.Measure:
    """The metric that stands for all; of times it needs no follow-up of train."""
    measured = suites.measure(comparing.as_target(made), comparing.as_prediction(made, 0.5), drawn)
    return measured[comparing.PRIMARY[made.target.kind]]


def _check_apart(run: Any, tokens: str) -> None:
    try:
        own = token_dataset.open_tokens(run.config["data"]["path"]).info["source_fingerprint"]
    except InputError:
        return
    if token_dataset.open_tokens(tokens).info["source_fingerprint"] == own:
        raise InputError(f"{tokens} was made from the events that {run.folder} was trained on; name another site.")


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
