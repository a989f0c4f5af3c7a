"""Starting from another run's parameters (`init.checkpoint`)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ehrjax.core import trees
from ehrjax.core.errors import InputError
from ehrjax.training import run
from ehrjax.training.state import TrainState
from ehrjax.vocab.vocabulary import Vocabulary

# Settings that say how a model is trained or run and not what its parameters mean; that shapes show, or that only add
# rows to a table; and which row of token types a token takes, which a checkpoint of texts cannot have chosen.
_FREE = frozenset(
    "vocab_size dropout attention_dropout token_dropout remat scan unroll attention_implementation init types "
    "num_layers hidden_dim embedding_dim mlp_dim time_dim max_positions max_visits max_age num_types "
    "num_segments".split()
)


@dataclass(frozen=True)
class Settings:
    """The `init` section.

    Attributes:
      checkpoint: a workdir whose parameters this run starts from; empty starts afresh.
      skip: regular expressions over parameter paths that start afresh all the same.
    """

    checkpoint: str = ""
    skip: tuple[str, ...] = ()


def start_from(settings: Settings, state: TrainState, vocabulary: Vocabulary, model: Any = None) -> TrainState:
    """The state with the parameters of another run, lying where the state's lie.

    Args:
      settings: the config section.
      state: a fresh state.
      vocabulary: of the data to train on; it must be the other run's.
      model: the Config of the model to train, whose settings must be the other run's where these decide what the
        parameters mean; None: the shapes alone are compared.

    Raises:
      InputError: no such run, another vocabulary, another model, or a parameter that is absent or has another shape
        there.
    """
    if not settings.checkpoint:
        return state
    other = run.load(settings.checkpoint)
    if other.vocabulary.fingerprint != vocabulary.fingerprint:
        raise InputError(
            f"The vocabulary of {settings.checkpoint} ({len(other.vocabulary)} tokens) is not that of the data "
            f"({len(vocabulary)} tokens); prepare the tokens with --fitted-from the old token dataset."
        )
    params = _replaced(state.params, other.params, settings.skip, Path(settings.checkpoint))
    if model is not None and _takes_layers(state.params, settings.skip):
        _check_model(model, other.model.config, settings.checkpoint)
    return state.replace(params=params)


def _takes_layers(fresh: Mapping[str, Any], skip: tuple[str, ...]) -> bool:
    """Whether more is taken than tables, whose rows mean the same in any model."""
    taken = [path for path in trees.flatten(fresh) if not any(re.search(pattern, path) for pattern in skip)]
    return any(path.startswith("model/") and not path.endswith("/embedding") for path in taken)


def _check_model(wanted: Any, there: Any, where: str) -> None:
    """Raises InputError for the first setting in which two models differ though their shapes may be the same."""
    new, old = (_meant(config) for config in (wanted, there))
    # The name comes first: another model has other settings.
    for name in dict.fromkeys((*new, *old)):
        if new.get(name) != old.get(name):
            raise InputError(
                f"{where} was trained with model.{name} = {old.get(name)!r}, the config says {new.get(name)!r}; set "
                f"model.{name} to what it was there, since its parameters mean nothing else."
            )


def _meant(config: Any) -> dict[str, Any]:
    """The settings of a model that decide what its parameters mean; those left to others are written out."""
    told = {name: value for name, value in vars(config).items() if name not in _FREE}
    if "kv_heads" in told:
        told["kv_heads"] = told["kv_heads"] or config.num_heads
        told["head_dim"] = told["head_dim"] or config.hidden_dim // config.num_heads
    return {"name": type(config).__module__.rsplit(".", 1)[-1], **told}


def _replaced(fresh: Mapping[str, Any], loaded: Mapping[str, Any], skip: tuple[str, ...], where: Path) -> Any:
    saved = trees.flatten(loaded)
    for pattern in skip:
        if not any(re.search(pattern, path) for path in trees.flatten(fresh)):
            raise InputError(f"init.skip holds {pattern!r}, which matches no parameter.")

    def choose(path: str, leaf: jax.Array) -> jax.Array:
        if any(re.search(pattern, path) for pattern in skip):
            return leaf
        if path not in saved:
            raise InputError(f"{where} has no parameter {path}; add it to init.skip to start it afresh.")
        if saved[path].shape != leaf.shape:
            raise InputError(f"{where} has {path} of shape {saved[path].shape}, the config makes it {leaf.shape}.")
        return jax.device_put(np.asarray(saved[path], leaf.dtype), leaf.sharding)

    return trees.map_paths(choose, fresh)
