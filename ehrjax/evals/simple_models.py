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
class Draws:
    """The draws of few-shot curves, and a sentence about them."""

    shots: tuple[shots.Shots, ...]
    about: str


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

    def shots(self, sizes: tuple[int, ...], file: str = "") -> Draws:
        """The labels that few-shot curves learn from.

        Args:
          sizes: k, labels of each answer.
          file: EHRSHOT's shots; empty: drawn by the seed.

        Raises:
          InputError: the labels are not yes or no, or the file cannot be used.
        """
        if file:
            given = shots.read_shots(file, self.found.labels.name, self.labels, self.task)
            drawn = [shot for shot in given if shot.k in sizes]
            if not drawn:
                there = ", ".join(str(k) for k in sorted({shot.k for shot in given}))
                raise InputError(f"{file} has no shots of the sizes asked for; it has k of {there}.")
            return Draws(tuple(drawn), f"The shots of {file}.")
        found, skipped = shots.draw_shots(self.task, shots=sizes, replicates=REPLICATES)
        about = f"Mean and standard deviation over {REPLICATES} seeded draws of k labels of each answer."
        about += "".join(f" No k of {k}: {why}." for k, why in list(skipped.items())[:1])
        return Draws(tuple(found), about)

    def few_shot(self, vectors: Mapping[str, np.ndarray], drawn: Draws, *, resamples: int, seed: int) -> dict[str, Any]:
        """AUROCs of linear models on k labels of each answer: on the counts, and on the frozen vectors of runs.

        Args:
          vectors: run name -> its vectors.
          drawn: from `shots`.
          resamples, seed: of the judged subjects, for the interval of the mean over draws.
        """
        truth = self.task.outcomes.truth[:, 0] > 0
        judged = self.labels[SPLIT].to_numpy() == self.split
        if truth[judged].all() or not truth[judged].any():
            return {"curves": {}, "about": "The judged labels have one answer only, so nothing can be told apart."}
        matrices: dict[str, np.ndarray | sparse.csr_matrix] = {}
        if self.dataset is not None:
            matrices["counts"] = designs.linear_design(self.counts, self.task.train, next(iter(designs.SCALES)))
        matrices |= {f"probe on {name}": own for name, own in vectors.items()}
        subjects = self.labels["subject_id"].to_numpy()
        curves = {}
        for name, matrix in matrices.items():
            made: dict[int, list[shots.FewShot]] = {}
            for one in shots.few_shot(matrix, self.task, drawn.shots):
                made.setdefault(one.k, []).append(one)
            points = []
            for k, several in made.items():
                rows, scores = several[0].rows, np.stack([one.values for one in several])
                found, samples = discrimination.aurocs(
                    truth[rows], scores, subjects[rows], resamples=resamples, seed=seed
                )
                every = [one.value for one in found]
                low, high = discrimination.interval(samples.mean(axis=0)) if found[0].subjects > 1 else (None, None)
                spread = float(np.std(every, ddof=1)) if len(every) > 1 else 0.0
                points.append(
                    {"k": k, "mean": float(np.mean(every)), "low": low, "high": high, "sd": spread, "all": every}
                )
            curves[name] = points
        about = f"{drawn.about} AUROC on the judged labels of linear models; the bands are 95 % intervals of the mean"
        return {"curves": curves, "about": about + " over resampled subjects."}


def tree_pool(run: Any) -> str:
    """What a causal model knows stands at the end; where every position sees all of it, their mean says more."""
    return "mean" if run.parts.sees_future is True else "last"


def _loss(fitted: fitting.Fitted) -> float:
    """Of the tuning labels; without these all are as good, and the first is taken."""
    loss = fitted.chosen.get("tuning_loss")
    return np.inf if loss is None else float(loss)
