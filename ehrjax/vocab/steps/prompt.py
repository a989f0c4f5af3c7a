"""Who the subject is, told in front: year and age at the start, sex, race, as in CEHR-BERT's demographic prompt."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from ehrjax.core.errors import InputError
from ehrjax.ingest.meds import BIRTH
from ehrjax.vocab.step_rows import ADDED, beside, first_timed, inserted, named
from ehrjax.vocab.steps.filter_codes import check_pattern, matches

_DAY_OF_YEAR = 365.25


@dataclass(frozen=True)
class Settings:
    """What the prompt holds. It must stand before births are filtered out.

    Attributes:
      year: a token `YEAR//2012`, the year of the first event.
      age: a token `AGE//45`, whole years at the first event; AGE//UNKNOWN without a birth.
      static: regular expressions; for each, the subject's first static event that matches moves into the prompt in
        this order, and where there is none the token `NAME//UNKNOWN` stands for it (NAME: the pattern's leading word).
    """

    year: bool = True
    age: bool = True
    static: tuple[str, ...] = ("GENDER", "RACE")

    def __post_init__(self) -> None:
        object.__setattr__(self, "static", tuple(self.static))
        for pattern in self.static:
            check_pattern(pattern, "prompt.static")
            if not pattern[:1].isalpha():
                raise InputError(f"recipe.prompt.static holds {pattern!r}; each must begin with the family's name.")


def needs(settings: Settings) -> str:
    """A year is a date; an age is the time since birth."""
    return "dates" if settings.year else "intervals" if settings.age else "order"


def apply(events: pl.DataFrame, settings: Settings, fitted: None = None) -> pl.DataFrame:
    """Puts the prompt, all of it without time, in front of the subject's other events.

    Year and age are those of the first event after the birth, so they tell nothing that the first event does not.
    The birth itself is left out: the age says it.
    """
    birth = (pl.col("code") == BIRTH) | pl.col("code").str.starts_with(BIRTH + "//")
    timed = events.filter(birth & pl.col("time").is_not_null())
    births = timed.group_by("subject_id").agg(pl.col("time").min().alias("_birth"))
    rows = events.filter(~birth)
    first = beside(rows, first_timed()).join(births, on="subject_id", how="left", maintain_order="left")
    years = (pl.col("time") - pl.col("_birth")).dt.total_microseconds() / (86_400e6 * _DAY_OF_YEAR)
    parts = []
    if settings.year:
        parts.append(named(first, pl.format("YEAR//{}", pl.col("time").dt.year())))
    if settings.age:
        age = pl.when(years.is_null()).then(pl.lit("UNKNOWN")).otherwise(years.floor().cast(pl.Int64).cast(pl.String))
        parts.append(named(first, pl.concat_str(pl.lit("AGE//"), age)))
    static = rows.filter(pl.col("time").is_null())
    for pattern in settings.static:
        found = static.filter(matches((pattern,))).unique("subject_id", keep="first", maintain_order=True)
        told = first.join(found.select("subject_id", pl.col("code").alias("_told")), on="subject_id", how="left")
        name = pattern.split("/")[0]
        parts.append(named(told.sort("_at"), pl.col("_told").fill_null(f"{name}//UNKNOWN")))
    columns = events.columns
    prompt = [
        part.with_columns(
            pl.lit(None, pl.Datetime("us")).alias("time"),
            pl.lit(None, pl.Int64).alias("visit_id"),
            *([pl.lit(-1, pl.Int32).alias("visit")] if "visit" in columns else []),
        ).select("_at", *columns)
        for part in parts
    ]
    # What was taken into the prompt is not said twice.
    taken = pl.col("time").is_null() & ~pl.col(ADDED)
    whole = inserted(rows, before=prompt)
    return whole.filter(~(taken & matches(settings.static))) if settings.static else whole
