"""Models of several seeds compared as one: the mean of their AUROCs, its interval, and paired differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ehrjax.core.errors import InputError
from ehrjax.evals import prediction_files
from ehrjax.metrics import discrimination

Shown = tuple[float, float | None, float | None]
"""A value and the ends of its interval."""


@dataclass(frozen=True)
class Mean:
    """The AUROC of a model, averaged over its seeds.

    Attributes:
      seeds: that of each seed; in a mean over folds, that of each fold.
      drawn: [resamples] the average in each resample of subjects; those of two models that were compared in one go are
        paired.
    """

    seeds: tuple[float, ...]
    drawn: np.ndarray

    @property
    def value(self) -> float:
        """The average over seeds."""
        return float(np.mean(self.seeds))

    def shown(self) -> Shown:
        """The average and its interval; it is over subjects, not over seeds."""
        return self.value, *discrimination.interval(self.drawn)

    def less(self, other: Mean) -> Shown:
        """The difference to another model."""
        return self.value - other.value, *discrimination.interval(self.drawn - other.drawn)

    def closed(self, base: Mean, best: Mean) -> Shown:
        """The share of the gap between two others that this one closes."""
        with np.errstate(divide="ignore", invalid="ignore"):  # without a gap there is no share of it
            value = np.divide(self.value - base.value, best.value - base.value)
            drawn = (self.drawn - base.drawn) / (best.drawn - base.drawn)
        return float(value), *discrimination.interval(np.where(np.isfinite(drawn), drawn, np.nan))


def over_folds(folds: Sequence[Mean]) -> Mean:
    """The average of a model's AUROCs over folds, whose held-out subjects are others in each."""
    return Mean(tuple(fold.value for fold in folds), np.mean([fold.drawn for fold in folds], axis=0))


def means(models: Mapping[str, Sequence[str | Path]], *, seed: int = 0) -> dict[str, Mean]:
    """The mean AUROC of each model.

    Args:
      models: a model's name -> files of predictions (yes or no), one a seed; all of the same labels in the same order,
        as a report writes them.
      seed: draws the resamples; those of different folds want different ones.

    Raises:
      InputError: there is no file, one cannot be read or is not of yes or no, or two are of different labels.
    """
    paths = [Path(path) for given in models.values() for path in given]
    if not paths:
        raise InputError("No file of predictions is named.")
    read = [prediction_files.read(path) for path in paths]
    for path, own in zip(paths, read):
        if own.target.kind != "yes_no" or own.truth is None:
            raise InputError(f"{path} holds no yes-or-no predictions with their truth, so it has no AUROC.")
        if not own.keys.equals(read[0].keys):
            raise InputError(f"{path} and {paths[0]} are of different labels; take both from one report.")
    truth, subjects = read[0].truth[:, 0] > 0, read[0].keys["subject_id"].to_numpy()
    found, drawn = discrimination.aurocs(truth, np.stack([own.values[:, 0] for own in read]), subjects, seed=seed)
    if len(np.unique(subjects)) < 2:  # whom resampling cannot vary
        drawn = np.full_like(drawn, np.nan)
    rows = iter(zip(found, drawn))
    made = {}
    for name, given in models.items():
        own = [next(rows) for _ in given]
        made[name] = Mean(tuple(one.value for one, _ in own), np.mean([draws for _, draws in own], axis=0))
    return made
