"""The objective on the tuning split, over every window of every subject, with the same draws each time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from ehrjax.core import mesh as meshes
from ehrjax.core import rng
from ehrjax.core.batch import Batch, device_fields
from ehrjax.data import pipeline, token_dataset

EvalStep = Callable[[Any, Mapping[str, jax.Array], jax.Array], tuple[Any, Any, Any]]


@dataclass(frozen=True)
class SplitBatches:
    """The fixed batches of a split for evaluation, and how to put them on the devices.

    Attributes:
      split: the subjects.
      settings: the data section.
      mesh: the device mesh.
      fields: batch fields to send.
      batch_size: rows a batch.
      seed: draws what is hidden in batch i by (seed, i).
    """

    split: token_dataset.Split
    settings: pipeline.Settings
    mesh: jax.sharding.Mesh
    fields: tuple[str, ...]
    batch_size: int
    seed: int

    def __iter__(self) -> Iterator[tuple[Batch, dict[str, jax.Array], jax.Array]]:
        """Yields (host batch of this process's rows, global device batch, key)."""
        epoch = pipeline.plan_epoch(self.split, self.settings, seed=None)
        rows = meshes.local_rows(self.mesh, self.batch_size)
        count = epoch.num_batches(self.batch_size)
        if self.settings.eval_batches:
            count = min(count, self.settings.eval_batches)
        for index in range(count):
            host = pipeline.make_batch(
                self.split, epoch, self.settings, rows=rows, batch_size=self.batch_size, index=index
            )
            chosen = {name: array for name, array in device_fields(host).items() if name in self.fields}
            device = meshes.to_devices(self.mesh, chosen, rows=rows, batch_size=self.batch_size)
            yield host, device, rng.key_for(self.seed, "evaluation", index)


class TuningLoss:
    """An evaluator: the mean loss and the objective's own means, by token, over a split.

    Args:
      batches: what to evaluate on.
      eval_step: from `make_eval_step`, jitted.
      prefix: of the metric names.
    """

    def __init__(self, batches: SplitBatches, eval_step: EvalStep, *, prefix: str = "tuning") -> None:
        self._batches, self._step, self._prefix = batches, eval_step, prefix

    def __call__(self, params: Any) -> dict[str, float]:
        totals: dict[str, float] = {}
        for _, device, key in self._batches:
            _, sums, _ = self._step(params, device, key)
            for name, value in sums.items():
                totals[name] = totals.get(name, 0.0) + float(np.asarray(value))
        weight = totals.pop("weight", 0.0)
        return {f"{self._prefix}_{name}": value / weight for name, value in totals.items()} if weight else {}
