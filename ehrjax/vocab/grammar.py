"""From MEDS events to tokens: small steps, each a pure function of a table, and the BEHRT grammar made of them."""

from __future__ import annotations

import numpy as np
import polars as pl

from ehrjax.ingest.meds import BIRTH
from ehrjax.vocab.recipe import Recipe
from ehrjax.vocab.value_bins import assign_bins
from ehrjax.vocab.visits import number_visits
from ehrjax.vocab.vocabulary import Vocabulary

# The time of static tokens: numpy's NaT, the smallest int64.
NO_TIME = np.iinfo(np.int64).min

SUBJECT_SCHEMA = {
    "subject_id": pl.Int64,
    "birth_time": pl.Int64,
    "num_static": pl.Int32,
    "tokens": pl.List(pl.Int32),
    "times": pl.List(pl.Int64),
    "visits": pl.List(pl.Int32),
    "values": pl.List(pl.Float32),
}


def drop_codes(events: pl.DataFrame, patterns: tuple[str, ...]) -> pl.DataFrame:
    """Leaves out events whose code matches one of the regular expressions from its start."""
    if not patterns:
        return events
    joined = "|".join(f"(?:{pattern})" for pattern in patterns)
    return events.filter(~pl.col("code").str.contains(f"^(?:{joined})"))


def name_tokens(events: pl.DataFrame, breaks: pl.DataFrame) -> pl.DataFrame:
    """Adds `bin` and `str`: the code alone, or `code//Qk` where its value falls in the k-th train-quantile bin."""
    events = events.with_columns(assign_bins(events, breaks))
    return events.with_columns(
        pl.when(pl.col("bin").is_null())
        .then(pl.col("code"))
        .otherwise(pl.format("{}//Q{}", "code", "bin"))
        .alias("str")
    )


def count_tokens(events: pl.DataFrame) -> pl.DataFrame:
    """How often each token occurs: str, code, bin, count."""
    return events.group_by("str", "code", "bin").agg(pl.len().cast(pl.Int64).alias("count"))


def separate_visits(events: pl.DataFrame, token: int) -> pl.DataFrame:
    """Puts a separator between the visits of a subject.

    It belongs to the visit that it closes but carries the time of the next visit's first event, because
    only then is it known that the visit has ended.
    """
    starts = (pl.col("visit") > 0) & (pl.col("visit") != pl.col("visit").shift(1).over("subject_id"))
    rows = events.with_row_index("_row").with_columns(pl.lit(1, pl.Int8).alias("_after"))
    separators = rows.filter(starts).with_columns(
        pl.lit(token, pl.Int32).alias("token"),
        pl.lit(None, pl.Float32).alias("numeric_value"),
        (pl.col("visit") - 1).cast(pl.Int32).alias("visit"),
        pl.lit(0, pl.Int8).alias("_after"),
    )
    return pl.concat([rows, separators]).sort("_row", "_after").drop("_row", "_after")


def gather_subjects(events: pl.DataFrame, births: pl.DataFrame, *, start: int | None) -> pl.DataFrame:
    """One row a subject (SUBJECT_SCHEMA), in the order in which subjects appear.

    Args:
      events: subject_id, time, token, visit, numeric_value in order; static rows first.
      births: subject_id, birth_time (microseconds since 1970, null where unknown).
      start: a token to put first, or None.
    """
    columns = {
        "tokens": pl.col("token"),
        "times": pl.col("time").to_physical().fill_null(NO_TIME),
        "visits": pl.col("visit").clip(lower_bound=0),
        "values": pl.col("numeric_value").fill_null(float("nan")),
    }
    frame = events.group_by("subject_id", maintain_order=True).agg(
        pl.col("time").is_null().sum().cast(pl.Int32).alias("num_static"),
        *(expression.alias(name) for name, expression in columns.items()),
    )
    if start is not None:
        first = {"tokens": start, "times": NO_TIME, "visits": 0, "values": float("nan")}
        frame = frame.with_columns(
            pl.col("num_static") + 1,
            *(
                pl.concat_list(pl.lit(value).cast(SUBJECT_SCHEMA[name].inner), pl.col(name)).alias(name)
                for name, value in first.items()
            ),
        )
    frame = frame.join(births, on="subject_id", how="left", maintain_order="left")
    return frame.select(pl.col(name).cast(dtype) for name, dtype in SUBJECT_SCHEMA.items())


def births_of(events: pl.DataFrame) -> pl.DataFrame:
    """subject_id and birth_time in microseconds since 1970, from MEDS_BIRTH (or MEDS_BIRTH//...)."""
    is_birth = (pl.col("code") == BIRTH) | pl.col("code").str.starts_with(BIRTH + "//")
    return (
        events.filter(is_birth & pl.col("time").is_not_null())
        .group_by("subject_id", maintain_order=True)
        .agg(pl.col("time").to_physical().min().alias("birth_time"))
    )


def tokenize(
    events: pl.DataFrame, recipe: Recipe, breaks: pl.DataFrame, vocabulary: Vocabulary
) -> tuple[pl.DataFrame, dict[str, int]]:
    """Turns a shard of MEDS events into one row of tokens a subject.

    Args:
      events: whole subjects in MEDS order.
      recipe: the grammar's settings.
      breaks: fitted value bins (`value_bins.fit_breaks`).
      vocabulary: fitted vocabulary.

    Returns:
      The table (SUBJECT_SCHEMA) and counts: events, known (events with a token of their own), subjects and
      subjects_set_aside (those with fewer than `recipe.min_events` timed events).
    """
    births = births_of(events)
    all_subjects = events["subject_id"].n_unique()
    events = name_tokens(drop_codes(events, recipe.drop), breaks)
    events = number_visits(events, gap_hours=recipe.visit_gap_hours)
    events = events.with_columns(vocabulary.encode(events["str"]).alias("token"))
    enough = pl.col("time").is_not_null().sum().over("subject_id") >= recipe.min_events
    events = events.filter(enough).select("subject_id", "time", "token", "visit", "numeric_value")
    counts = {
        "events": len(events),
        "known": int((events["token"] != vocabulary.unk).sum()),
        "subjects": events["subject_id"].n_unique(),
    }
    counts["subjects_set_aside"] = all_subjects - counts["subjects"]
    if recipe.separate_visits:
        events = separate_visits(events, vocabulary.sep)
    return gather_subjects(events, births, start=vocabulary.cls if recipe.start else None), counts
