"""How well a supervised model tells the labels of the tuning split apart, while it is trained."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from ehrjax.data.labelled import Target
from ehrjax.evals.tuning import EvalStep, SplitBatches
from ehrjax.metrics import discrimination, survival


class TuningScores:
    """An evaluator: the mean loss and the objective's own means, and how well it tells the labels apart.

    That is AUROC and average precision of yes or no (of several tasks: of each, and their means), one against the rest
    of classes and codes; Harrell's C of times; nothing of numbers, whose error is part of the loss.

    Args:
      batches: what to evaluate on.
      eval_step: from `make_eval_step`, jitted.
      target: what the labels are.
      prefix: of the metric names.
    """

    def __init__(self, batches: SplitBatches, eval_step: EvalStep, target: Target, *, prefix: str = "tuning") -> None:
        self._batches, self._step, self._target, self._prefix = batches, eval_step, target, prefix

    def __call__(self, params: Any) -> dict[str, float]:
        key = {"time": "survival", "number": "values"}.get(self._target.kind, "probabilities")
        totals: dict[str, float] = {}
        truths, scores = [], []
        for _, device, drawn in self._batches:
            _, sums, predictions = self._step(params, device, drawn)
            for name, value in sums.items():
                totals[name] = totals.get(name, 0.0) + float(np.asarray(value))
            used = _whole(device["weights"]) > 0
            truths.append(_whole(device["labels"])[used])
            scores.append(_whole(predictions[key])[used])
        weight = totals.pop("weight", 0.0)
        if not weight:
            return {}
        values = {name: value / weight for name, value in totals.items()}
        if self._target.kind != "number":
            values |= numbers(np.concatenate(truths), np.concatenate(scores), self._target)
        return {f"{self._prefix}_{name}": value for name, value in values.items()}


def numbers(truth: np.ndarray, scores: np.ndarray, target: Target) -> dict[str, float]:
    """The metrics of predictions.

    Args:
      truth: [N, K] labels.
      scores: [N, outputs] probabilities; of times the survival by the end of each interval.
      target: what the labels are.

    Returns:
      Names and values; NaN where there is one class only.
    """
    if target.kind == "time":
        return {"c_index": float(survival.harrell_c(truth[:, 0], truth[:, 1] > 0, 1 - scores[:, -1])[0])}
    if target.kind == "classes":
        truth = truth == np.arange(len(target.names))
    told = {
        "auroc": [_of_asked(discrimination.auroc, truth[:, k], scores[:, k]) for k in range(truth.shape[1])],
        "average_precision": [
            _of_asked(discrimination.average_precision, truth[:, k], scores[:, k]) for k in range(truth.shape[1])
        ],
    }
    result = {name: _mean(values) for name, values in told.items()}
    if target.kind == "tasks":
        result |= {f"auroc_{name}": value for name, value in zip(target.names, told["auroc"])}
    return result


def _of_asked(metric: Any, truth: np.ndarray, scores: np.ndarray) -> float:
    asked = ~np.isnan(truth)
    return float(metric(truth[asked] > 0, scores[asked])[0])


def _mean(values: list[float]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")


def _whole(array: Any) -> np.ndarray:
    """The array of all processes."""
    if jax.process_count() == 1:
        return np.asarray(array)
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(array, tiled=True))
