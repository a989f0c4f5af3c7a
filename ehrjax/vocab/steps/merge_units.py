"""One unit a measurement: values in other units are converted to the unit most used in train."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pint
import polars as pl

from ehrjax.core.errors import InputError

KEYS = {"code": pl.String}
FITTED = {"code": pl.String, "new_code": pl.String, "factor": pl.Float64}
_SEPARATOR = "//"


@dataclass(frozen=True)
class Settings:
    """Which codes carry a unit, and what units mean.

    Attributes:
      families: codes of these families end in their unit: `FAMILY//name//unit`.
      table: a CSV file with code, unit, to, factor (value in `to` = factor x value in `unit`); an empty code holds
        for all. It goes before the general rules, and is needed where mass becomes amount of substance
        (mg/dL to mmol/L), which depends on the substance.
    """

    families: tuple[str, ...] = ("LAB", "LOINC")
    table: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "families", tuple(self.families))


@lru_cache(maxsize=1)
def _units() -> pint.UnitRegistry:
    registry = pint.UnitRegistry()
    # Units that laboratories write and pint does not know.
    registry.define("international_unit = [biological_activity] = IU = iU = U")
    registry.define("equivalent = mole = Eq")
    return registry


@lru_cache(maxsize=100_000)
def factor_between(unit: str, to: str) -> float | None:
    """What a value in `unit` is multiplied with to be in `to`; None where the two do not measure the same.

    >>> round(factor_between("g/L", "mg/dL"), 6)
    100.0
    """
    try:
        one, other = (_units().parse_expression(_spelled(text)) for text in (unit, to))
        # A temperature has an offset: a factor alone would be wrong.
        if not unit or not to or one.dimensionality == {"[temperature]": 1}:
            return None
        return float((one / other).to("dimensionless").magnitude)
    except Exception:  # pint raises many classes, its parser those of Python's tokenizer
        return None


def _spelled(unit: str) -> str:
    """A unit as pint reads it: laboratories write K/uL, mm Hg, #/mL, per cent."""
    spelled = unit.strip().replace("µ", "u").replace("mm Hg", "mmHg").replace("%", "percent").replace("#", "1")
    if spelled.startswith(("K/", "k/")):
        spelled = "1000" + spelled[1:]
    return spelled


def count(events: pl.DataFrame, settings: Settings) -> pl.DataFrame:
    """How many values each code with a unit has."""
    mine = pl.col("code").str.extract("^(.*?)//", 1).is_in(list(settings.families))
    valued = events.filter(pl.col("numeric_value").is_not_null())
    counted = valued.group_by("code").agg(pl.len().cast(pl.Int64).alias("count"))
    return counted.filter(mine & (pl.col("code").str.count_matches(_SEPARATOR, literal=True) >= 2))


def fit(counts: pl.DataFrame, settings: Settings) -> pl.DataFrame:
    """For each code in a lesser unit, the code in the most used one of its measurement and the factor.

    Codes whose unit cannot be converted stay as they are.
    """
    table = _read_table(settings.table)
    units: dict[str, list[tuple[int, str]]] = {}
    for code, number in counts.select("code", "count").iter_rows():
        name, _, unit = code.rpartition(_SEPARATOR)
        units.setdefault(name, []).append((number, unit))
    rows = []
    for name, found in sorted(units.items()):
        _, best = min((-number, unit) for number, unit in found)
        for _, unit in sorted(found):
            if unit == best:
                continue
            rest = name.split(_SEPARATOR, 1)[1]
            keys = ((name, unit, best), (rest, unit, best), ("", unit, best))
            factor = next((table[key] for key in keys if key in table), None) or factor_between(unit, best)
            if factor is not None:
                rows.append((f"{name}{_SEPARATOR}{unit}", f"{name}{_SEPARATOR}{best}", factor))
    return pl.DataFrame(rows, schema=FITTED, orient="row")


def _read_table(path: str) -> dict[tuple[str, str, str], float]:
    if not path:
        return {}
    if not Path(path).is_file():
        raise InputError(f"The unit table {path} does not exist.")
    try:
        frame = pl.read_csv(path, infer_schema=False)
        rows = frame.select(pl.col("code").fill_null(""), "unit", "to", pl.col("factor").cast(pl.Float64))
    except pl.exceptions.PolarsError as error:
        raise InputError(
            f"The unit table {path} needs the columns code, unit, to and factor (a number): "
            f"{str(error).splitlines()[0]}."
        ) from error
    return {(code, unit, to): factor for code, unit, to, factor in rows.iter_rows()}


def apply(events: pl.DataFrame, settings: Settings, fitted: pl.DataFrame) -> pl.DataFrame:
    """Converts values and renames codes; events without a value are renamed too."""
    joined = events.join(fitted, on="code", how="left", maintain_order="left")
    value = (pl.col("numeric_value").cast(pl.Float64) * pl.col("factor")).cast(pl.Float32)
    return joined.with_columns(
        pl.when(pl.col("factor").is_null()).then("numeric_value").otherwise(value).alias("numeric_value"),
        pl.coalesce("new_code", "code").alias("code"),
    ).select(events.columns)
