"""What a trained model must beat, on the same labels: baselines from counts, linear probes, few examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
from scipy import sparse

from ehrjax.core.errors import InputError
from ehrjax.evals import predicting
from ehrjax.evals.baselines import designs, features, fitting, shots
from ehrjax.evals.comparing import Entry
from ehrjax.evals.judged import Judged
from ehrjax.evals.prediction_files import KEYS, Predictions
from ehrjax.ingest.labels.reading import SPLIT
from ehrjax.ingest.meds import TRAIN, TUNING, MedsDataset
from ehrjax.metrics import discrimination

POOLS = ("mean", "last")
EDGES_DAYS = (30.0, 90.0, 180.0, 365.0, 730.0, 1825.0)
REPLICATES = 5


@dataclass(frozen=True)
class Simple:
    """The labels of train, tuning and the judged split as one table, and what is fitted on them.

    Attributes:
      found: the labels.
      split: the judged one.
      edges_days: of times: ends of the intervals.
      dataset: the events, for counts; None without.
      seed: draws what is drawn.
    """

    found: Judged
    split: str
    edges_days: tuple[float, ...] = EDGES_DAYS
    dataset: MedsDataset | None = None
    seed: int = 0

    @cached_property
    def splits(self) -> tuple[str, ...]:
        """The splits that have labels, in order."""
        there = tuple(name for name in dict.fromkeys((TRAIN, TUNING, self.split)) if name in self.found.truth)
        if TRAIN not in there:
            raise InputError("The labels hold none of the split train, which baselines and probes are fitted on.")
        return there

    @cached_property
    def labels(self) -> pl.DataFrame:
        """[N] subject_id, prediction_time and split, split by split."""
        parts = [self.found.truth[name].keys.with_columns(pl.lit(name).alias(SPLIT)) for name in self.splits]
        return pl.concat([part.select(*KEYS, SPLIT) for part in parts])

    @cached_property
    def task(self) -> fitting.Task:
        """The same as the fitting functions take it."""
        values = np.concatenate([self.found.truth[name].truth for name in self.splits])
        edges = self.edges_days if self.found.target.kind == "time" else ()
        return fitting.Task(self.found.target, values, self.labels[SPLIT].to_numpy(), edges_days=edges, seed=self.seed)

    @cached_property
    def counts(self) -> features.Features:
        """What is on record of each label's subject."""
        return features.count_features(self.dataset, self.labels)

    def baseline(self, name: str) -> Entry:
        """A baseline, fitted on train, chosen on tuning."""
        return self._entry(fitting.fit(name, self.counts, self.task), name, "baseline")

    def vectors(self, name: str, run: Any, pools: Sequence[str] = POOLS) -> dict[str, np.ndarray]:
        """What a frozen run knows for all labels, pooled in each way, and when it is asked: [N, D]."""
        parts: dict[str, list[np.ndarray]] = {pool: [] for pool in pools}
        for split in self.splits:
            part = self.found.tokens[name].parts[split]
            own, keys = predicting.vectors(run, part, pools), predicting.keys_of(part).with_row_index("_at")
            at = self.found.truth[split].keys.join(keys, on=list(KEYS), how="left", maintain_order="left")["_at"]
            when = predicting.moments(part)
            for pool in pools:
                parts[pool].append(np.concatenate([own[pool], when], axis=1)[at.to_numpy()])
        return {pool: np.concatenate(given) for pool, given in parts.items()}

    def probe(self, name: str, vectors: Mapping[str, np.ndarray]) -> Entry:
        """A linear model on a run's frozen vectors; how they are pooled is chosen on tuning, as the penalty is."""
        best = None
        for pool, given in vectors.items():
            fitted = fitting.probe(given, self.task, name=f"probe_{name}", label=f"linear probe on {name}")
            fitted = replace(fitted, chosen={**fitted.chosen, "pool": pool})
            if best is None or _loss(fitted) < _loss(best):
                best = fitted
        return self._entry(best, best.name, "probe")

    def tree_probe(self, name: str, run: Any, vectors: Mapping[str, np.ndarray]) -> Entry:
        """Boosted trees on a run's frozen vectors, pooled as `tree_pool` says."""
        given = vectors[tree_pool(run)]
        fitted = fitting.tree_probe(given, self.task, name=f"trees_{name}", label=f"boosted trees on {name}")
        return self._entry(fitted, fitted.name, "probe")

    def _entry(self, fitted: fitting.Fitted, name: str, role: str) -> Entry:
        values = np.asarray(fitted.values, np.float32)
        values = values[:, None] if values.ndim == 1 else values
        if fitted.survival is not None:
            values = np.concatenate([values, fitted.survival.astype(np.float32)], axis=1)
        made = {}
        for split in self.splits:
            if split == TRAIN:
                continue
            rows = np.flatnonzero(self.labels[SPLIT].to_numpy()[fitted.rows] == split)
            truth = self.found.truth[split]
            made[split] = Predictions(truth.target, truth.keys, truth.truth, values[rows], fitted.edges_days)
        told = {"chosen": fitted.chosen, "seconds": round(fitted.seconds, 1)}
        return Entry(name, fitted.label, role, made[self.split], made.get(TUNING), told)

    def few_shot(
        self, vectors: Mapping[str, Mapping[str, np.ndarray]], sizes: tuple[int, ...], file: str = ""
    ) -> dict[str, Any]:
        """AUROCs of linear models on k labels of each answer: on the counts, and on the frozen vectors of runs.

        Args:
          vectors: run name -> its vectors by pool; the first pool is taken, for with few labels none can be chosen.
          sizes: k.
          file: EHRSHOT's shots; empty: drawn by the seed.
        """
        if self.split in (TRAIN, TUNING):
            raise InputError("Few-shot curves are judged by held_out; leave --split as it is.")
        truth = self.task.outcomes.truth[:, 0] > 0
        asked = truth[self.labels[SPLIT].to_numpy() == self.split]
        if asked.all() or not asked.any():
            return {"curves": {}, "about": "The judged labels have one answer only, so nothing can be told apart."}
        if file:
            given = shots.read_shots(file, self.found.labels.name, self.labels, self.task)
            drawn, skipped = [shot for shot in given if shot.k in sizes], {}
            about = f"The shots of {file}."
        else:
            drawn, skipped = shots.draw_shots(self.task, shots=sizes, replicates=REPLICATES)
            about = f"Mean and standard deviation over {REPLICATES} seeded draws of k labels of each answer."
        matrices: dict[str, np.ndarray | sparse.csr_matrix] = {}
        if self.dataset is not None:
            matrices["counts"] = designs.linear_design(self.counts, self.task.train, next(iter(designs.SCALES)))
        matrices |= {f"probe on {name}": next(iter(own.values())) for name, own in vectors.items()}
        curves = {}
        for name, matrix in matrices.items():
            found: dict[int, list[float]] = {}
            for one in shots.few_shot(matrix, self.task, drawn):
                found.setdefault(one.k, []).append(float(discrimination.auroc(truth[one.rows], one.values)[0]))
            curves[name] = [
                {"k": k, "mean": float(np.mean(a)), "sd": float(np.std(a, ddof=1)) if len(a) > 1 else 0.0, "all": a}
                for k, a in found.items()
            ]
        about += "".join(f" No k of {k}: {why}." for k, why in list(skipped.items())[:1])
        return {"curves": curves, "about": about + " AUROC on the judged labels of linear models."}


def tree_pool(run: Any) -> str:
    """What a causal model knows stands at the end; where every position sees all of it, their mean says more."""
    return "mean" if run.parts.sees_future is True else "last"


def _loss(fitted: fitting.Fitted) -> float:
    """Of the tuning labels; without these all are as good, and the first is taken."""
    loss = fitted.chosen.get("tuning_loss")
    return np.inf if loss is None else float(loss)
