"""The token recipe: everything that decides how MEDS events become tokens, as one frozen record.

A recipe is an ordered list of steps (`ehrjax.vocab.steps`), each with its settings, and what becomes of rare tokens.
In a config each step has a section of its own name, so `--config.bin_values.num_bins=20` changes one. A step that is
needed twice is listed as `map_codes@drugs` and has the section `map_codes@drugs`.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ehrjax.core import config as configs
from ehrjax.core.errors import InputError

PAD, UNK, CLS, SEP, MASK = SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
BEHRT_STEPS = ("filter_codes", "bin_values", "number_visits", "separate_visits", "start")


@dataclass(frozen=True)
class Recipe:
    """How events become tokens; by default the steps of BEHRT.

    Attributes:
      name: the grammar's name, for reports.
      steps: labels of steps in order: a step's name, or `name@label`.
      settings: label -> the step's settings, a mapping; steps that are not in it have their defaults.
      min_count: a token is kept if it occurs at least so often in the train split.
      rare: what becomes of other tokens: 'unk' ([UNK] stands for them) or 'drop'.
      min_events: subjects with fewer timed tokens are set aside (and counted).
    """

    name: str = "behrt"
    steps: tuple[str, ...] = BEHRT_STEPS
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    min_count: int = 1
    rare: str = "unk"
    min_events: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", tuple(self.steps))
        for name, least in (("min_count", 1), ("min_events", 0)):
            if getattr(self, name) < least:
                raise InputError(f"recipe.{name} is {getattr(self, name)}; it must be at least {least}.")
        if self.rare not in ("unk", "drop"):
            raise InputError(f"recipe.rare is {self.rare!r}; choose unk or drop.")
        if len(set(self.steps)) < len(self.steps):
            raise InputError("recipe.steps lists a step twice; give each a label of its own (map_codes@drugs).")
        for label in self.settings:
            if label not in self.steps:
                close = difflib.get_close_matches(label, self.steps, n=1)
                hint = f"; did you mean {close[0]}?" if close else f"; its steps are {', '.join(self.steps)}."
                raise InputError(f"The recipe {self.name} has no key or step {label!r}{hint}")

    def as_dict(self) -> dict[str, Any]:
        """The recipe as JSON values."""
        return configs.to_dict({**dataclasses.asdict(self), "settings": {k: dict(v) for k, v in self.settings.items()}})


def from_config(config: Mapping[str, Any]) -> Recipe:
    """The recipe of a config made by a file in configs/tokens/: its own keys, and a section a step.

    Raises:
      InputError: an unknown key or a value that cannot be.
    """
    given = configs.to_dict(config)
    own = {f.name for f in dataclasses.fields(Recipe)} - {"settings"}
    settings = {}
    for key in [key for key in given if key not in own]:
        if not isinstance(given[key], dict):
            close = difflib.get_close_matches(key, own, n=1)
            hint = f"; did you mean recipe.{close[0]}?" if close else f"; it has {', '.join(sorted(own))}."
            raise InputError(f"config.recipe has no key {key!r}{hint}")
        settings[key] = given.pop(key)
    return Recipe(**given, settings=settings)
