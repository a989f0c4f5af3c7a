"""A model's Config from a mapping, with every mistake as one sentence."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from ehrjax.core.errors import InputError

T = TypeVar("T")


def parse(cls: type[T], values: Mapping[str, Any], choices: Mapping[str, Sequence[str]], *, model: str) -> T:
    """Builds the dataclass `cls` of a model.

    Args:
      cls: its fields are the settings; those of type int must be at least 1 (0 where that is their default), and
        those named `...dropout` at least 0 and below 1. With hidden_dim, num_heads and kv_heads these must divide.
      values: the settings.
      choices: field -> what it may be.
      model: the model's name, for messages.

    Raises:
      InputError: a setting that the model does not have, lacks, or that cannot be.
    """
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - set(fields))
    if unknown:
        raise InputError(f"model.{unknown[0]} is not a setting of {model}; remove it from the config.")
    if "vocab_size" not in values:
        raise InputError("model.vocab_size is missing; give the number of rows of the vocabulary.")
    config = cls(**values)
    for name, allowed in choices.items():
        if getattr(config, name) not in allowed:
            raise InputError(f"model.{name} is {getattr(config, name)!r}; it must be one of {', '.join(allowed)}.")
    for name, field in fields.items():
        value = getattr(config, name)
        least = 0 if field.default == 0 else 1
        if field.type in ("int", "int | None") and value is not None and value < least:
            raise InputError(f"model.{name} is {value}; it must be at least {least}.")
        if name.endswith("dropout") and not 0 <= value < 1:
            raise InputError(f"model.{name} is {value}; it must be at least 0 and below 1.")
    _check_heads(config)
    return config


def _check_heads(config: Any) -> None:
    heads, width = getattr(config, "num_heads", None), getattr(config, "hidden_dim", None)
    if heads is None:
        return
    if width % heads and getattr(config, "head_dim", None) is None:
        raise InputError(f"model.hidden_dim {width} is not divisible by model.num_heads {heads}.")
    if heads % (getattr(config, "kv_heads", None) or heads):
        raise InputError(f"model.num_heads {heads} is not divisible by model.kv_heads {config.kv_heads}.")


def check_positions(max_positions: int, context_length: int) -> None:
    """Raises InputError if a segment of `context_length` tokens would have positions beyond a table."""
    if context_length > max_positions:
        raise InputError(
            f"the context of {context_length} tokens is longer than model.max_positions "
            f"{max_positions}; raise the one or lower the other."
        )
