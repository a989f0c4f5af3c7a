"""What the configs of foreign checkpoints share: activations by their names, refusals, rules for common layers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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


# What the values of the keys that families read must be, and which may be null.
_WHOLE = frozenset(
    "num_hidden_layers num_attention_heads num_key_value_heads head_dim hidden_size intermediate_size vocab_size "
    "max_position_embeddings type_vocab_size sliding_window pad_token_id n_layers n_heads dim hidden_dim n_layer "
    "n_head n_embd n_inner n_positions n_ctx n_time_embd n_visit_segments sample_packing_max_positions "
    "embedding_size max_visits age_bin_years max_age".split()
)
_NUMBER = frozenset(
    "layer_norm_eps layer_norm_epsilon rms_norm_eps head_layer_norm_eps rope_theta hidden_dropout_prob "
    "attention_probs_dropout_prob attention_dropout dropout resid_pdrop embd_pdrop attn_pdrop "
    "time_embedding_scaling_factor age_embedding_scaling_factor".split()
)
_TEXT = frozenset("model_type hidden_act head_act activation activation_function position_type".split())
_SWITCH = frozenset("tie_word_embeddings include_value_prediction visit_segments".split())
_MAPPING = frozenset("rope_parameters rope_scaling".split())
_MAY_BE_NULL = frozenset(
    "model_type num_key_value_heads head_dim sliding_window pad_token_id n_inner sample_packing_max_positions "
    "rope_parameters rope_scaling".split()
)


def check_kinds(config: Mapping[str, Any], where: object) -> None:
    """Raises InputError for the first value of a config that is of a kind that its key cannot have.

    Args:
      config: of any family, as JSON gives it.
      where: the file, for the message.
    """
    for key, value in config.items():
        if value is None and (key in _MAY_BE_NULL or key == "architectures"):
            continue
        if (wanted := _wrong(key, value)) is not None:
            raise InputError(f"{where} says {key} = {value!r}; it must be {wanted}.")


def _wrong(key: str, value: Any) -> str | None:
    """What a value must be; None where it is that."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if key in _WHOLE and not (number and isinstance(value, int)):
        return "a whole number"
    if key in _NUMBER and not (number and 0 <= value < float("inf")):
        return "a number of at least 0"
    if key in _TEXT and not isinstance(value, str):
        return "a name"
    if key in _SWITCH and not isinstance(value, bool):
        return "true or false"
    if key in _MAPPING and not isinstance(value, Mapping):
        return "a mapping"
    names = isinstance(value, list) and all(isinstance(name, str) for name in value)
    if key == "architectures" and not names:
        return "a list of names"
    return None


def require(config: Mapping[str, Any], keys: Iterable[str]) -> None:
    """Raises InputError for the first of some keys that a config lacks."""
    for key in keys:
        if key not in config:
            raise InputError(f"config.json has no {key}; copy the model's own config.json beside its weights.")


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
