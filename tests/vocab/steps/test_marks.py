"""The marks that make preparation faster change nothing: categories for codes, and counting only what is counted."""

from __future__ import annotations

import importlib
import pkgutil

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ehrjax.data import token_stages
from ehrjax.vocab import grammar, steps
from ehrjax.vocab.recipe import Recipe
from tests.vocab.steps.histories import histories

MODULES = {
    m.name: importlib.import_module(f"ehrjax.vocab.steps.{m.name}") for m in pkgutil.iter_modules(steps.__path__)
}
TAKE_CATEGORIES = sorted(name for name, module in MODULES.items() if getattr(module, "CATEGORIES", False))
SETTINGS = {
    "filter_codes": {"drop": ("DX//1",)},
    "bin_values": {"num_bins": 3, "min_values": 1},
    "standardise_values": {"min_values": 2},
    "bin_values@separate": {"num_bins": 3, "min_values": 1, "separate": True},
}
NEED_VISITS = ("separate_visits",)


def fitted(events: pl.DataFrame, bound: tuple[grammar.Step, ...]) -> dict[str, pl.DataFrame]:
    tables: dict[str, pl.DataFrame] = {}
    for which, step in enumerate(bound):
        if step.fitted:
            subjects = events.select(pl.col("subject_id").unique(maintain_order=True), pl.lit("train").alias("split"))
            counts = token_stages.count(events, subjects, bound, which, tables)
            tables[step.label] = step.module.fit(token_stages.add([counts], step), step.settings)
    return tables


def test_some_steps_are_marked() -> None:
    assert {"filter_codes", "bin_values", "number_visits", "start"} <= set(TAKE_CATEGORIES)


@pytest.mark.parametrize("label", sorted({*TAKE_CATEGORIES, "bin_values@separate"}))
@given(events=histories())
def test_a_marked_step_makes_the_same_of_strings_and_categories(label: str, events: pl.DataFrame) -> None:
    names = ("number_visits", label) if label in NEED_VISITS else (label,)
    bound = grammar.bind(Recipe("test", steps=names, settings={n: SETTINGS[n] for n in names if n in SETTINGS}))
    categories = events.with_columns(pl.col("code").cast(pl.Categorical))
    tables = fitted(events, bound)
    for name, table in fitted(categories, bound).items():
        assert table.equals(tables[name])
    one, other = (grammar.apply(frame, bound, tables) for frame in (events, categories))
    assert isinstance(other.schema["code"], pl.Categorical)
    assert other.with_columns(pl.col("code").cast(pl.String)).equals(one)
    assert grammar.births_of(categories).equals(grammar.births_of(events))


@given(events=histories(), data=st.data())
def test_numbers_of_tokens_do_not_depend_on_how_codes_are_held(events: pl.DataFrame, data: st.DataObject) -> None:
    bins = data.draw(st.lists(st.none() | st.integers(1, 3), min_size=len(events), max_size=len(events)))
    rows = events.with_columns(pl.Series("bin", bins, pl.Int32))
    told = []
    for dtype in (pl.String, pl.Categorical):
        ids, names = token_stages._number(rows.with_columns(pl.col("code").cast(dtype)))
        told.append(names["str"].gather(pl.Series(ids, dtype=pl.UInt32)).to_list())
        assert len(np.unique(ids)) == len(names), "each name occurs"
    assert told[0] == told[1] == [c if b is None else f"{c}//Q{b}" for c, b in zip(events["code"], bins)]


@given(events=histories(), dropped=st.sampled_from([(), ("DX",), ("LAB//a",)]))
def test_counting_less_counts_the_same(events: pl.DataFrame, dropped: tuple[str, ...]) -> None:
    settings = {"bin_values": SETTINGS["bin_values"], "filter_codes": {"drop": dropped}}
    bound = grammar.bind(Recipe("test", steps=("filter_codes", "bin_values"), settings=settings))
    subjects = events.select(pl.col("subject_id").unique(maintain_order=True)).with_columns(
        pl.when(pl.col("subject_id") == 0).then(pl.lit("tuning")).otherwise(pl.lit("train")).alias("split")
    )
    columns = token_stages.columns_counted(bound, 1)
    assert set(columns) == {"subject_id", "code", "numeric_value"}
    counted = token_stages.count(events.select(columns), subjects, bound, 1, {})
    everything = grammar.apply(events.filter(pl.col("subject_id") != 0), bound[:1], {})
    whole = bound[1].module.count(everything, bound[1].settings)
    step = bound[1]
    assert token_stages.add([counted], step).equals(token_stages.add([whole], step))
