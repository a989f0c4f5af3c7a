"""The token recipe: everything that decides how MEDS events become tokens, as one frozen record."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ehrjax.core import config as configs
from ehrjax.core.errors import InputError

PAD, UNK, CLS, SEP, MASK = SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


@dataclass(frozen=True)
class Recipe:
    """How events become tokens.

    Attributes:
      name: the grammar's name, for reports.
      drop: regular expressions; events whose code matches one from its start are not tokens.
      min_count: a token is kept if it occurs at least so often in the train split.
      num_bins: numeric values become quantile bins; 0 keeps the bare code.
      min_values: a code needs so many finite train values before its values are binned.
      visit_gap_hours: an event without a visit id starts a new visit after a gap longer than this.
      start: put [CLS] in front of each subject.
      separate_visits: put [SEP] between visits.
      min_events: subjects with fewer timed events are set aside (and counted).
    """

    name: str
    drop: tuple[str, ...] = ()
    min_count: int = 1
    num_bins: int = 10
    min_values: int = 50
    visit_gap_hours: float = 24.0
    start: bool = True
    separate_visits: bool = True
    min_events: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "drop", tuple(self.drop))
        for pattern in self.drop:
            try:
                re.compile(pattern)
            except re.error as error:
                raise InputError(f"recipe.drop holds {pattern!r}, which is no regular expression: {error}.") from error
        for name, least in (("min_count", 1), ("num_bins", 0), ("min_values", 1), ("min_events", 0)):
            if getattr(self, name) < least:
                raise InputError(f"recipe.{name} is {getattr(self, name)}; it must be at least {least}.")
        if self.visit_gap_hours <= 0:
            raise InputError(f"recipe.visit_gap_hours is {self.visit_gap_hours}; it must be positive.")

    def as_dict(self) -> dict[str, Any]:
        """The recipe as JSON values."""
        return configs.to_dict(dataclasses.asdict(self))


def from_config(config: Mapping[str, Any]) -> Recipe:
    """The recipe of a config made by a file in configs/tokens/."""
    return configs.into(Recipe, config, where="recipe")
