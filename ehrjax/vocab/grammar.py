"""A grammar at work: a recipe's steps with their settings and fitted tables, applied to whole subjects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import polars as pl

from ehrjax.core import config as configs
from ehrjax.core import plugins
from ehrjax.core.errors import InputError
from ehrjax.ingest.meds import BIRTH
from ehrjax.vocab.recipe import Recipe
from ehrjax.vocab.step_rows import ADDED

# The time of static tokens: numpy's NaT, the smallest int64.
NO_TIME = np.iinfo(np.int64).min
# What a source's times can be good for, from the least to the most.
ORDER, INTERVALS, DATES = GOOD_FOR = ("order", "intervals", "dates")

SUBJECT_SCHEMA = {
    "subject_id": pl.Int64,
    "birth_time": pl.Int64,
    "num_static": pl.Int32,
    "tokens": pl.List(pl.Int32),
    "times": pl.List(pl.Int64),
    "visits": pl.List(pl.Int32),
    "values": pl.List(pl.Float32),
}


@dataclass(frozen=True)
class Step:
    """One step of a recipe.

    Attributes:
      label: its name in the recipe.
      module: the step's module.
      settings: its parsed settings.
    """

    label: str
    module: ModuleType
    settings: Any

    @property
    def fitted(self) -> bool:
        """Whether the step is fitted on train."""
        return hasattr(self.module, "fit")


def bind(recipe: Recipe) -> tuple[Step, ...]:
    """The steps of a recipe, ready to apply.

    Raises:
      InputError: an unknown step or setting.
    """
    steps = []
    for label in recipe.steps:
        module = plugins.find("ehrjax.vocab.steps", label.split("@")[0], "apply", key="recipe.steps")
        settings = configs.into(module.Settings, dict(recipe.settings.get(label, {})), where=f"recipe.{label}")
        steps.append(Step(label, module, settings))
    return tuple(steps)


def check_times(steps: tuple[Step, ...], good_for: str, *, source: str) -> None:
    """Raises InputError for a step that needs more of the times than a source's pseudo-times give.

    Args:
      steps: the grammar.
      good_for: 'order', 'intervals' or 'dates'.
      source: the dataset's name, for the message.
    """
    for step in steps:
        needs = step.module.needs(step.settings) if hasattr(step.module, "needs") else ORDER
        if GOOD_FOR.index(needs) > GOOD_FOR.index(good_for):
            raise InputError(
                f"The step {step.label} needs {needs}, but the times of {source} are good for {good_for} only; "
                "leave the step out or use data with real dates."
            )


def apply(events: pl.DataFrame, steps: tuple[Step, ...], fitted: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """Applies steps in order.

    Codes may be String or Categorical; a step sees Strings unless its module says CATEGORIES = True.

    Args:
      events: whole subjects in MEDS order: the columns of `meds.EVENT_SCHEMA`, texts apart.
      steps: some or all steps of a grammar.
      fitted: label -> fitted table of those that are fitted.
    """
    events = events.drop("text_value", strict=False).with_columns(
        pl.lit(False).alias(ADDED), pl.lit(None, pl.Int32).alias("bin"), pl.lit(0, pl.Int32).alias("visit")
    )
    for step in steps:
        events = step.module.apply(as_taken(events, step), step.settings, fitted.get(step.label))
    return events


def as_taken(events: pl.DataFrame, step: Step) -> pl.DataFrame:
    """The events with their codes as the step takes them: Strings, unless it says that it takes categories too."""
    if getattr(step.module, "CATEGORIES", False):
        return events
    return events.with_columns(pl.col("code").cast(pl.String))


def births_of(events: pl.DataFrame) -> pl.DataFrame:
    """subject_id and birth_time in microseconds since 1970, from MEDS_BIRTH (or MEDS_BIRTH//...)."""
    codes = events["code"].unique().cast(pl.String)
    births = codes.filter((codes == BIRTH) | codes.str.starts_with(BIRTH + "//"))
    return (
        events.filter(pl.col("code").is_in(births.implode()) & pl.col("time").is_not_null())
        .group_by("subject_id", maintain_order=True)
        .agg(pl.col("time").to_physical().min().alias("birth_time"))
    )


def gather_subjects(events: pl.DataFrame, births: pl.DataFrame) -> pl.DataFrame:
    """One row a subject (SUBJECT_SCHEMA), in the order in which subjects appear.

    Args:
      events: subject_id, time, token, visit, numeric_value in order; static rows first.
      births: subject_id, birth_time (microseconds since 1970, null where unknown).
    """
    frame = events.group_by("subject_id", maintain_order=True).agg(
        pl.col("time").is_null().sum().cast(pl.Int32).alias("num_static"),
        pl.col("token").alias("tokens"),
        pl.col("time").to_physical().fill_null(NO_TIME).alias("times"),
        pl.col("visit").clip(lower_bound=0).alias("visits"),
        pl.col("numeric_value").fill_null(float("nan")).alias("values"),
    )
    frame = frame.join(births, on="subject_id", how="left", maintain_order="left")
    return frame.select(pl.col(name).cast(dtype) for name, dtype in SUBJECT_SCHEMA.items())
