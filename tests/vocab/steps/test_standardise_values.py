"""Values as z-scores: the train split's, exact over pieces, and nothing for what is not known."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ehrjax.core.errors import InputError
from ehrjax.vocab.steps import standardise_values as step
from tests.vocab.steps.histories import histories, run

values = st.lists(st.floats(-1e6, 1e6, width=32), min_size=2, max_size=30)


def events(given: list[float | None], code: str = "LAB//a") -> pl.DataFrame:
    return pl.DataFrame({"code": [code] * len(given), "numeric_value": pl.Series(given, dtype=pl.Float32)})


@given(values, st.integers(1, 29))
def test_mean_and_spread_are_those_of_all_values_however_they_are_cut(given: list[float], cut: int) -> None:
    settings = step.Settings(min_values=2)
    from ehrjax.data import token_stages
    from ehrjax.vocab.grammar import Step

    parts = [step.count(events(part), settings) for part in (given[:cut], given[cut:]) if part]
    added = token_stages.add(parts, Step("standardise_values", step, settings))
    fitted = step.fit(added, settings)
    whole = np.array(given, np.float32).astype(np.float64)
    assert fitted["mean"][0] == pytest.approx(whole.mean(), rel=1e-9, abs=1e-6)
    assert fitted["std"][0] == pytest.approx(whole.std(), rel=1e-6, abs=1e-6)
    shown = step.apply(events(given), settings, fitted)["numeric_value"].to_numpy()
    if whole.std() > 1e-3 * (1 + abs(whole).max()):
        np.testing.assert_allclose(shown, np.clip((whole - whole.mean()) / whole.std(), -10, 10), rtol=1e-3, atol=1e-3)


def test_odd_values() -> None:
    settings = step.Settings(min_values=3, limit=2.0)
    fitted = step.fit(step.count(events([1, 2, 3, math.nan, math.inf, None]), settings), settings)
    assert fitted.rows() == [("LAB//a", 2.0, pytest.approx(math.sqrt(2 / 3)))]
    shown = step.apply(events([2, math.nan, math.inf, -math.inf, None, 100]), settings, fitted)["numeric_value"]
    assert shown.to_list() == [0.0, None, 2.0, -2.0, None, 2.0]
    assert step.apply(events([1.0], "LAB//rare"), settings, fitted)["numeric_value"].to_list() == [None]
    flat = step.fit(step.count(events([5, 5, 5]), settings), settings)
    assert step.apply(events([5, 6, None]), settings, flat)["numeric_value"].to_list() == [0.0, 0.0, None]


@given(histories())
def test_only_values_change(given: pl.DataFrame) -> None:
    rows = run(given, "standardise_values", standardise_values={"min_values": 2})
    assert rows.drop("numeric_value").select(given.drop("numeric_value").columns).equals(given.drop("numeric_value"))
    assert rows["numeric_value"].drop_nulls().is_finite().all()


def test_bad_settings() -> None:
    with pytest.raises(InputError, match="min_values is 1"):
        step.Settings(min_values=1)
    with pytest.raises(InputError, match="limit is 0"):
        step.Settings(limit=0)
