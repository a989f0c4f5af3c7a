"""Several models as one: weights of the least log loss on tuning, and nothing of the judged labels in them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ehrjax.core.errors import InputError
from ehrjax.data.labelled import Target
from ehrjax.evals import joined
from ehrjax.evals.comparing import Entry
from ehrjax.evals.prediction_files import Predictions


def entry(name: str, odds: dict[str, np.ndarray], truth: dict[str, np.ndarray]) -> Entry:
    made = {}
    for split, own in odds.items():
        keys = pl.DataFrame({"subject_id": np.arange(len(own)), "prediction_time": np.zeros(len(own), np.int64)})
        keys = keys.with_columns(pl.col("prediction_time").cast(pl.Datetime("us")))
        values = (1 / (1 + np.exp(-own)))[:, None]
        made[split] = Predictions(Target("yes_no"), keys, truth[split][:, None].astype(np.float32), values)
    return Entry(name, name, "model", made["held_out"], made.get("tuning"), {})


def two(seed: int = 0, rows: int = 2000) -> list[Entry]:
    """Half of what decides is known to a, half to b, and c knows nothing."""
    rng = np.random.default_rng(seed)
    a, b, c = ({split: rng.normal(size=rows) for split in ("tuning", "held_out")} for _ in range(3))
    truth = {split: rng.random(rows) < 1 / (1 + np.exp(-(0.5 * a[split] + 2 * b[split] - 1))) for split in a}
    return [entry(name, odds, truth) for name, odds in (("a", a), ("b", b), ("c", c))]


def test_weights_are_those_that_made_the_answers() -> None:
    entries = two(rows=20_000)
    made = joined.stacked("ab", ["a", "b", "c"], entries)
    weights = [float(part.split()[0]) for part in made.told["log odds of"].split(", ")]
    np.testing.assert_allclose(weights, [0.5, 2, 0], atol=0.06)
    told = np.log(made.held_out.values[:, 0] / (1 - made.held_out.values[:, 0]))
    odds = [np.log(own.held_out.values[:, 0] / (1 - own.held_out.values[:, 0])) for own in entries]
    fitted = np.linalg.lstsq(np.column_stack([*odds, np.ones(len(told))]), told, rcond=None)[0]
    np.testing.assert_allclose(fitted, [*weights, -1], atol=0.06)


@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(5, 60))
def test_no_step_from_the_weights_lowers_the_loss(seed: int, members: int, rows: int) -> None:
    rng = np.random.default_rng(seed)
    odds = rng.normal(size=(rows, members)) * rng.choice([0.3, 1.0, 3.0], members)
    truth = rng.random(rows) < 0.4
    truth[:2] = [True, False]
    weights, offset = joined.fit(odds, truth)
    assert (weights >= 0).all()

    def loss(w: np.ndarray, o: float) -> float:
        told = odds @ w + o
        return float(np.mean(np.logaddexp(0, told) - truth * told))

    best = loss(weights, offset)
    for k in range(members):
        for step in (1e-3, -1e-3, 0.1, -0.1):
            moved = weights.copy()
            moved[k] = max(0.0, moved[k] + step)
            assert loss(moved, offset) >= best - 1e-8
    assert min(loss(weights, offset + step) for step in (1e-3, -1e-3)) >= best - 1e-8


def test_the_judged_labels_decide_nothing() -> None:
    entries = two()
    turned = [replace(own, held_out=replace(own.held_out, truth=1 - own.held_out.truth)) for own in entries]
    one, other = (joined.stacked("s", ["a", "b"], given) for given in (entries, turned))
    np.testing.assert_array_equal(one.held_out.values, other.held_out.values)
    assert one.told == other.told and len(one.tuning) == len(entries[0].tuning)


def test_together_is_the_mean_on_the_labels_that_all_have() -> None:
    a, b, _ = two(rows=50)
    own = b.held_out
    few = replace(
        b, tuning=None, held_out=Predictions(own.target, own.keys[10:30], own.truth[10:30], own.values[10:30])
    )
    made = joined.together("m", ["a", "b"], [a, few])
    assert made.tuning is None and made.held_out.keys["subject_id"].to_list() == list(range(10, 30))
    odds = [np.log(one.held_out.values[10:30] / (1 - one.held_out.values[10:30])) for one in (a, b)]
    np.testing.assert_allclose(made.held_out.values, 1 / (1 + np.exp(-sum(odds) / 2)), atol=1e-6)


def test_refused() -> None:
    a, b, _ = two(rows=50)
    with pytest.raises(InputError, match="which b has no predictions of"):
        joined.stacked("s", ["a", "b"], [a, replace(b, tuning=None)])
    none = [replace(own, tuning=replace(own.tuning, truth=np.zeros((50, 1), np.float32))) for own in (a, b)]
    with pytest.raises(InputError, match="whose 50 labels have one answer only"):
        joined.stacked("s", ["a", "b"], none)
