"""Labels whose truth depends on made-up features, of every kind, and the tasks of them."""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy import sparse
from scipy.special import expit

from ehrjax.data.labelled import Target
from ehrjax.evals.baselines.features import Features
from ehrjax.evals.baselines.fitting import Task

EDGES = (10.0, 30.0, 100.0)
SIZE = 1500


def features(size: int = SIZE, seed: int = 0) -> Features:
    """Codes A, B, C counted in two windows, five of noise, a value that is sometimes absent, age and sex."""
    rng = np.random.default_rng(seed)
    recent = rng.poisson(0.5, (size, 3)).astype(np.float32)
    whole = recent + rng.poisson(1.0, (size, 3)).astype(np.float32)
    noise = rng.poisson(0.3, (size, 5)).astype(np.float32)
    value = rng.normal(size=(size, 1)).astype(np.float32)
    value[rng.random(size) < 0.3] = np.nan
    windows = [(window, code) for window in ("30d", "all") for code in "ABC"]
    ages = rng.uniform(20, 90, size)
    ages[rng.random(size) < 0.1] = np.nan
    return Features(
        sparse.csr_matrix(np.concatenate([recent, whole, noise], axis=1)),
        (*(f"count|{window}|{code}" for window, code in windows), *(f"count|all|N{i}" for i in range(5))),
        value,
        ("last|all|V",),
        ages,
        rng.choice(["female", "male", "unknown"], size),
    )


def score(found: Features) -> np.ndarray:
    """[N] the log-odds that the labels are drawn from."""
    counts = found.counts.toarray()
    value = np.nan_to_num(found.values[:, 0])
    age = np.nan_to_num((found.ages - 55) / 20)
    return 1.5 * np.log1p(counts[:, 3]) - 1.2 * np.log1p(counts[:, 4]) + value + 0.7 * age


def task(kind: str, found: Features, seed: int = 0) -> Task:
    """Labels of a kind that follow `score`; half in train, the rest in halves."""
    rng = np.random.default_rng([seed, 1])
    size, logit = len(found), score(found)
    split = np.array(["train", "train", "tuning", "held_out"])[np.arange(size) % 4]
    target = Target(kind)
    if kind == "yes_no":
        values = (rng.random(size) < expit(logit))[:, None]
    elif kind == "number":
        values = 100.0 + 10 * logit[:, None] + rng.normal(size=(size, 1))
    elif kind == "classes":
        target = Target(kind, ("low", "middle", "high"))
        values = np.digitize(logit + rng.logistic(size=size), (-1.0, 1.0))[:, None]
    elif kind == "codes":
        target = Target(kind, tuple("ABCX"))
        again = np.log1p(found.counts.toarray()[:, :3]) * 2 - 1
        values = np.concatenate([rng.random((size, 3)) < expit(again), rng.random((size, 1)) < 0.2], axis=1)
    else:
        days, last = rng.exponential(60 * np.exp(-logit)), rng.uniform(5, 150, size)
        values = np.stack([np.minimum(days, last), days <= last], axis=1)
    edges = EDGES if kind == "time" else ()
    return Task(target, values.astype(np.float32), split, edges_days=edges, seed=seed)


def where(made: Task, split: str) -> np.ndarray:
    """Rows of a split."""
    return np.flatnonzero(made.split == split)


def with_values(made: Task, rows: np.ndarray, values: np.ndarray) -> Task:
    """The same task with other values in some rows."""
    changed = made.values.copy()
    changed[rows] = values
    return dataclasses.replace(made, values=changed)
