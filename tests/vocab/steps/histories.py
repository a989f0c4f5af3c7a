"""Made-up histories for tests of steps: a few subjects with static rows, ties, old dates, odd codes and values."""

from __future__ import annotations

import polars as pl
from hypothesis import strategies as st

from ehrjax.ingest.meds import EVENT_SCHEMA
from ehrjax.vocab import grammar
from ehrjax.vocab.recipe import Recipe

HOUR = 3_600_000_000
CODES = ("DX//1", "DX//2", "LAB//a//mg", "LAB//b//g", "ENCOUNTER//X", "Größe//身長")


@st.composite
def histories(draw: st.DrawFn, *, codes: tuple[str, ...] = CODES, max_events: int = 15) -> pl.DataFrame:
    """Events of 0 to 3 subjects in MEDS order, as steps see them: without texts."""
    rows = []
    for subject in range(draw(st.integers(0, 3))):
        for i in range(draw(st.integers(0, 2))):
            rows.append((subject, None, f"STATIC//{i}", None, None, None))
        hours = draw(st.lists(st.integers(0, 2000), max_size=max_events))
        time = -500 * HOUR  # before 1970
        for gap in hours:
            time += gap * HOUR // 2
            value = draw(st.none() | st.sampled_from([0.5, 1.0, float("nan"), float("inf"), -2.0]))
            visit = draw(st.none() | st.integers(0, 2))
            rows.append((subject, time, draw(st.sampled_from(codes)), value, None, visit))
    frame = pl.DataFrame(
        rows, schema={name: pl.Int64 if name == "time" else t for name, t in EVENT_SCHEMA.items()}, orient="row"
    )
    return frame.cast({"time": pl.Datetime("us")}).drop("text_value")


def run(events: pl.DataFrame, *steps: str, **settings: dict) -> pl.DataFrame:
    """The events after some steps; fitted steps are fitted on all of them."""
    bound = grammar.bind(Recipe("test", steps=steps, settings=settings))
    fitted: dict[str, pl.DataFrame] = {}
    for i, step in enumerate(bound):
        if step.fitted:
            counts = step.module.count(grammar.apply(events, bound[:i], fitted), step.settings)
            fitted[step.label] = step.module.fit(counts, step.settings)
    rows = grammar.apply(events, bound, fitted)
    token = pl.when(pl.col("bin").is_null()).then("code").otherwise(pl.format("{}//Q{}", "code", "bin"))
    return rows.with_columns(token.alias("str"))


def by_subject(rows: pl.DataFrame, *columns: str) -> dict[int, list[tuple]]:
    """subject -> rows of the named columns, in order."""
    found: dict[int, list[tuple]] = {}
    for subject, *rest in rows.select("subject_id", *columns).iter_rows():
        found.setdefault(subject, []).append(tuple(rest))
    return found
