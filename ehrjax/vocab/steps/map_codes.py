"""Codes by a table: ICD-9 to ICD-10 by GEM, a local list to a standard one, anything to groups."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import polars as pl

from ehrjax.core.errors import InputError


@dataclass(frozen=True)
class Settings:
    """Where the table is and what becomes of codes that it does not hold.

    Attributes:
      table: a CSV file (also .gz) with a header; dots and case count as they stand.
      source: its column with the code as it is now, without `family`.
      target: its column with the code as it shall be, without `new_family`.
      family: only codes `family//...` are mapped ("" maps whole codes).
      new_family: the family of mapped codes ("" uses the target as it is).
      drop_dots: take dots out of codes on both sides before comparing (ICD codes are written either way).
      missing: codes of the family that the table lacks: 'keep' or 'drop'.
      several: a code with several targets: 'all' gives an event each (in the table's order), 'first' the first one,
        'none' treats it as missing.
    """

    table: str = ""
    source: str = "source"
    target: str = "target"
    family: str = ""
    new_family: str = ""
    drop_dots: bool = False
    missing: str = "keep"
    several: str = "first"

    def __post_init__(self) -> None:
        for name, allowed in (("missing", ("keep", "drop")), ("several", ("all", "first", "none"))):
            if getattr(self, name) not in allowed:
                raise InputError(
                    f"recipe.map_codes.{name} is {getattr(self, name)!r}; choose one of {', '.join(allowed)}."
                )
        if not self.table:
            raise InputError("recipe.map_codes.table is empty; name a CSV file.")


@lru_cache(maxsize=8)
def read_table(settings: Settings) -> pl.DataFrame:
    """The table as code -> new_code (whole codes), duplicates left out, the file's order kept.

    Raises:
      InputError: the file or a column is missing, or it cannot be read.
    """
    path = Path(settings.table)
    try:
        frame = pl.read_csv(path, infer_schema=False)
    except FileNotFoundError as error:
        raise InputError(f"The code table {path} does not exist.") from error
    except (pl.exceptions.PolarsError, OSError) as error:
        raise InputError(f"The code table {path} cannot be read as CSV: {str(error).splitlines()[0]}.") from error
    for name in (settings.source, settings.target):
        if name not in frame.columns:
            raise InputError(f"The code table {path} has no column {name!r}; it has {', '.join(frame.columns)}.")
    source, target = pl.col(settings.source), pl.col(settings.target)
    if settings.drop_dots:
        source = source.str.replace_all(".", "", literal=True)
    return (
        frame.filter(source.is_not_null() & target.is_not_null())
        .select(_joined(settings.family, source).alias("code"), _joined(settings.new_family, target).alias("new_code"))
        .unique(maintain_order=True)
    )


def _joined(family: str, code: pl.Expr) -> pl.Expr:
    return pl.concat_str(pl.lit(f"{family}//"), code) if family else code


def apply(events: pl.DataFrame, settings: Settings, fitted: None = None) -> pl.DataFrame:
    """Replaces codes by the table's; a code with several targets may become several events, in the table's order."""
    table = read_table(settings)
    count = pl.len().over("code")
    if settings.several == "first":
        table = table.unique("code", keep="first", maintain_order=True)
    elif settings.several == "none":
        table = table.filter(count == 1)
    mine = pl.col("code").str.starts_with(f"{settings.family}//") if settings.family else pl.lit(True)
    codes = events.select(pl.col("code").unique())
    asked = codes.filter(mine).with_columns(
        (pl.col("code").str.replace_all(".", "", literal=True) if settings.drop_dots else pl.col("code")).alias("_key")
    )
    found = asked.join(table, left_on="_key", right_on="code", how="inner", maintain_order="left_right")
    if settings.missing == "drop":
        lost = asked.join(found, on="code", how="anti").select("code")
        events = events.join(lost, on="code", how="anti", maintain_order="left")
    events = events.join(found.select("code", "new_code"), on="code", how="left", maintain_order="left_right")
    return events.with_columns(pl.coalesce("new_code", "code").alias("code")).drop("new_code")
