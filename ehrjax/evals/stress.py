"""How a model's predictions hold up on records that are made worse on purpose."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ehrjax.evals import comparing, degrading, judged, predicting
from ehrjax.evals.prediction_files import KEYS, Predictions
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
        every = predicting.keys_of(part).with_row_index("_at")
        own = every.join(found.truth[split].keys, on=list(KEYS), how="semi", maintain_order="left")["_at"].to_numpy()
        chosen = np.sort(np.random.default_rng(seed).permutation(own)[:MOST_LABELS])
        content = predicting.content_of(part)
        content = [content[i] for i in chosen]
        keys = predicting.keys_of(part)[chosen]
        drawn = Resamples.of(keys["subject_id"].to_numpy(), resamples=resamples, seed=seed)
        damage = degrading.Degrader(run.vocabulary, found.tokens[name].dataset.info["recipe"], seed=seed)
        if len(chosen) < len(own):
            notes.append(f"{name}: on {len(chosen):,} of the {len(own):,} labels, drawn by the seed.")
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
                    measure = primary(made, drawn).as_dict()
                    whole = whole or measure
                points.append({"level": level, **(measure if level else whole)})
    return told, notes


def primary(made: Predictions, drawn: Resamples) -> suites.Measure:
    """The metric that stands for all; of times it needs no follow-up of train."""
    measured = suites.measure(comparing.as_target(made), comparing.as_prediction(made, 0.5), drawn)
    return measured[comparing.PRIMARY[made.target.kind]]
