"""How a model's predictions hold up at other sites, whose tokens are in its vocabulary and whose people are others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from ehrjax.core.errors import InputError
from ehrjax.data import labelled, token_dataset
from ehrjax.evals import judged, past, predicting, stress
from ehrjax.evals.judged import Judged
from ehrjax.evals.prediction_files import Predictions
from ehrjax.evals.settings import Settings
from ehrjax.ingest.labels import reading
from ehrjax.metrics.bootstrap import Resamples


@dataclass(frozen=True)
class Site:
    """Another site, opened and checked.

    Attributes:
      name: of the site.
      tokens: run name -> its labelled windows in all splits that have labels.
      notes: sentences for the report.
    """

    name: str
    tokens: Mapping[str, judged.Tokens]
    notes: tuple[str, ...]


def opened(runs: Mapping[str, Any], found: Judged, settings: Settings) -> list[Site]:
    """The sites that are asked for.

    Args:
      runs: name -> a supervised run.
      found: the labels that judge at home.
      settings: with `sites`, `decode` and `force`.

    Raises:
      InputError: a site holds subjects that a run was trained on, has labels of another kind or none, or is in another
        vocabulary.
    """
    return [_opened(name, *paths, runs, found, settings) for name, paths in settings.sites.items()]


def _opened(site: str, tokens: str, path: str, runs: Mapping[str, Any], found: Judged, settings: Settings) -> Site:
    labels = judged.read(path, settings.decode)
    kind = labelled.kind_of(labels)
    if kind != found.target.kind:
        raise InputError(
            f"The labels {path} of the site {site} are {kind}, those that judge at home are {found.target.kind}; name "
            "labels of the same task."
        )
    notes = []
    if labels.name != found.labels.name:
        notes.append(
            f"The labels of {site} are called {labels.name}, those at home {found.labels.name}: they must be about the "
            "same."
        )
    joined = {}
    for name, run in runs.items():
        own = judged.join(run, labels, tokens, _splits_with_labels(tokens, labels), target=found.target)
        if not own.parts:
            raise InputError(f"No label of {labels.name} can be asked of a subject of {tokens}.")
        subjects = np.concatenate([predicting.keys_of(part)["subject_id"].to_numpy() for part in own.parts.values()])
        notes += _seen(name, run, own, site, subjects, force=settings.force)
        joined[name] = own
    return Site(site, joined, tuple(notes))


def _seen(name: str, run: Any, tokens: judged.Tokens, site: str, subjects: np.ndarray, *, force: bool) -> list[str]:
    """Warnings where a site has ids that the run was trained on.

    Raises:
      InputError: the site is of a dataset that the run, or what it started from, was trained on.
    """
    known, notes = past.of(run), []
    if not known.whole:
        notes.append(
            f"Not all that {name}, or what it started from, was trained on is still there as it was, so whether {site} "
            "is another site is unsure."
        )
    seen = known.trained(subjects)
    if not seen:
        return notes
    if not known.knows(tokens.dataset.info):
        return [*notes, f"{name}: {seen:,} ids of {site} are ids of its train split too; they must be other people."]
    if not force:
        raise InputError(
            f"{tokens.dataset.folder} holds {seen:,} subjects that {run.folder}, or what it started from, was trained "
            "on; name another site, or add --force."
        )
    return [*notes, f"{name} was trained on {seen:,} of the subjects of {site}: its numbers there are too good."]


def measured(
    runs: Mapping[str, Any], given: Sequence[Site], found: Judged, *, resamples: int, seed: int
) -> list[dict[str, Any]]:
    """The primary metric of each run on all labels of each site.

    Args:
      runs: name -> a supervised run.
      given: from `opened`.
      found: the labels that judge at home; of a run on several tasks theirs is asked.
      resamples, seed: of the bootstrap.

    Returns:
      A row a site and run.
    """
    told = []
    for site in given:
        for name, own in site.tokens.items():
            made = [
                predicting.predict(runs[name], part, found.target, found.labels.name) for part in own.parts.values()
            ]
            whole = _joined(made)
            subjects = whole.keys["subject_id"].to_numpy()
            drawn = Resamples.of(subjects, resamples=resamples, seed=seed)
            told.append(
                {
                    "name": site.name,
                    "model": name,
                    "labels": len(whole),
                    "subjects": int(len(np.unique(subjects))),
                    "metric": stress.primary(whole, drawn).as_dict(),
                }
            )
    return told


def _splits_with_labels(tokens: str, labels: reading.Labels) -> tuple[str, ...]:
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
