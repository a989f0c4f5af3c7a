"""What the configs of foreign checkpoints share: activations by their names, refusals, rules for common layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ehrjax.core.errors import InputError
from ehrjax.hf.rules import SAME, TRANSPOSED, Rule, Transform

ACTIVATIONS = {
    "gelu": "erf",
    "gelu_new": "tanh",
    "gelu_pytorch_tanh": "tanh",
    "gelu_fast": "tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
_NAMES = {"erf": "gelu", "tanh": "gelu_new", "relu": "relu", "silu": "silu"}


def activation(config: Mapping[str, Any], key: str, default: str) -> str:
    """Our name of a config's activation.

    Raises:
      InputError: it is none that ehrjax has.
    """
    name = config.get(key, default)
    if name not in ACTIVATIONS:
        raise InputError(f"config.json says {key} = {name!r}; ehrjax has {', '.join(ACTIVATIONS)}.")
    return ACTIVATIONS[name]


def activation_name(ours: str) -> str:
    """HuggingFace's name of our activation."""
    return _NAMES[ours]


def refuse(config: Mapping[str, Any], expected: Mapping[str, Any], *, who: str = "ehrjax") -> None:
    """Raises InputError for a setting that changes the model in a way that the other side does not have.

    Args:
      config: a config.
      expected: key -> the value that it must have where it is there.
      who: the other side.
    """
    for key, value in expected.items():
        if config.get(key, value) != value:
            raise InputError(f"{key} is {config[key]!r}, which {who} has not; it must be {value!r}.")


def linear(name: str, path: str, how: Transform = TRANSPOSED, *, group: str = "") -> list[Rule]:
    """The rules of a layer with a kernel and a bias."""
    return [
        Rule(f"{name}.weight", f"{path}/kernel", how, group),
        Rule(f"{name}.bias", f"{path}/bias", SAME, group),
    ]


def norm(name: str, path: str, *, group: str = "") -> list[Rule]:
    """The rules of a norm with a scale and a bias."""
    return [
        Rule(f"{name}.weight", f"{path}/scale", SAME, group),
        Rule(f"{name}.bias", f"{path}/bias", SAME, group),
    ]
