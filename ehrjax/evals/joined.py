"""Several models as one: their mean log odds, or weighted ones, the weights fitted on tuning (stacking)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float
from scipy.optimize import minimize
from scipy.special import expit, logit

from ehrjax.core.errors import InputError
from ehrjax.evals import judged
from ehrjax.evals.comparing import Entry
from ehrjax.evals.prediction_files import KEYS, Predictions

# A probability of 0 or 1 has no odds.
_LEAST = 1e-6


def together(name: str, members: Sequence[str], entries: Sequence[Entry]) -> Entry:
    """The mean log odds of several entries, on the labels that each of them has a prediction for.

    Args:
      name: of the new entry.
      members: names of entries.
      entries: all there are; yes or no.
    """
    chosen = _chosen(members, entries)
    weights = np.full(len(chosen), 1 / len(chosen))
    told = {"mean log odds of": ", ".join(members)}
    return _weighted(name, chosen, weights, 0.0, told)


def stacked(name: str, members: Sequence[str], entries: Sequence[Entry]) -> Entry:
    """The weighted log odds of several entries, as they tell the answers of tuning best (Wolpert 1992; Breiman 1996).

    Args:
      name: of the new entry.
      members: names of entries.
      entries: all there are; yes or no.

    Raises:
      InputError: one of them has no predictions of tuning, or all of tuning has one answer.
    """
    chosen = _chosen(members, entries)
    check_tuning(name, members, entries)
    tuning = _aligned([entry.tuning for entry in chosen])
    check_answers(name, tuning[0].truth)
    weights, offset = fit(_log_odds(tuning), tuning[0].truth[:, 0] > 0)
    told = {"log odds of": ", ".join(f"{weight:.3f} {member}" for weight, member in zip(weights, members))}
    return _weighted(name, chosen, weights, offset, told)


def check_tuning(name: str, members: Sequence[str], entries: Sequence[Entry]) -> None:
    """Refuses (InputError) to stack members that are among the entries and have no predictions of tuning."""
    for entry in entries:
        if entry.name in members and entry.tuning is None:
            raise InputError(f"--stacked {name} is fitted on tuning, which {entry.name} has no predictions of.")


def check_answers(name: str, truth: Float[np.ndarray, "rows 1"]) -> None:
    """Refuses (InputError) to stack where all of tuning has one answer."""
    yes = truth[:, 0] > 0
    if yes.all() or not yes.any():
        raise InputError(f"--stacked {name} is fitted on tuning, whose {len(yes):,} labels have one answer only.")


def fit(odds: Float[np.ndarray, "rows members"], truth: Bool[np.ndarray, " rows"]) -> tuple[np.ndarray, float]:
    """Weights of at least 0, and an offset, of the least log loss.

    Returns:
      [members] the weights of the log odds, and what is added to their sum.
    """
    rows, members = odds.shape
    answers = truth.astype(np.float64)

    def loss(state: np.ndarray) -> tuple[float, np.ndarray]:
        told = odds @ state[:-1] + state[-1]
        error = (expit(told) - answers) / rows
        return float(np.mean(np.logaddexp(0, told) - answers * told)), np.append(odds.T @ error, error.sum())

    start = np.append(np.full(members, 1 / members), 0.0)
    bounds = [(0.0, None)] * members + [(None, None)]
    tight = {"ftol": 1e-15, "gtol": 1e-9, "maxiter": 10_000}
    found = minimize(loss, start, jac=True, bounds=bounds, method="L-BFGS-B", options=tight).x
    return found[:-1], float(found[-1])


def _chosen(members: Sequence[str], entries: Sequence[Entry]) -> list[Entry]:
    known = {entry.name: entry for entry in entries}
    return [known[member] for member in members]


def _weighted(name: str, chosen: Sequence[Entry], weights: np.ndarray, offset: float, told: dict[str, str]) -> Entry:
    """An entry of weighted log odds; it has tuning where all have it."""
    made = []
    for given in ([entry.held_out for entry in chosen], [entry.tuning for entry in chosen]):
        if any(own is None for own in given):
            made.append(None)
            continue
        aligned = _aligned(given)
        risks = expit(_log_odds(aligned) @ weights + offset)
        made.append(replace(aligned[0], values=risks[:, None].astype(np.float32)))
    return Entry(name, name, "model", made[0], made[1], told)


def _aligned(given: Sequence[Predictions]) -> list[Predictions]:
    """On the labels that all have a prediction for."""
    keys = given[0].keys
    for own in given[1:]:
        keys = keys.join(own.keys, on=list(KEYS), how="semi", maintain_order="left")
    return [judged.aligned(own, keys) for own in given]


def _log_odds(aligned: Sequence[Predictions]) -> Float[np.ndarray, "rows members"]:
    risks = np.clip(np.column_stack([own.values[:, 0].astype(np.float64) for own in aligned]), _LEAST, 1 - _LEAST)
    return logit(risks)
