"""A run's parts, built from its config; and `ehrjax.load`, which opens a finished (or running) workdir."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ehrjax.core import batch as batches
from ehrjax.core import checkpoint, files, plugins, precision, rng, trees
from ehrjax.core import config as configs
from ehrjax.core.batch import SUPERVISION
from ehrjax.core.errors import InputError
from ehrjax.core.layers import STATES
from ehrjax.vocab import vocabulary as vocabularies


@dataclass(frozen=True)
class Parts:
    """What a config names: the model and the objective, ready to use.

    Attributes:
      model: a Linen module.
      objective: see ehrjax.objectives.
      fields: the batch fields that the two need.
      context_length: tokens a row.
    """

    model: Any
    objective: Any
    fields: tuple[str, ...]
    context_length: int

    @property
    def model_fields(self) -> tuple[str, ...]:
        """The batch fields that the model reads."""
        return sys.modules[type(self.model).__module__].FIELDS

    @property
    def sees_future(self) -> bool | str:
        """What `sees_future` says of the model."""
        return sees_future(sys.modules[type(self.model).__module__], self.model.config)

    def init(self, key: jax.Array) -> dict[str, Any]:
        """Fresh parameters: {"model": ..., "head": ...}; without "head" where the head has none (tied, no bias)."""
        shapes = {"B L": (1, 8), "B S": (1, 8), "B N D": (1, 2, getattr(self.model.config, "note_dim", 0))}
        names = [name for name in self.fields if name not in SUPERVISION]
        example = {name: jnp.zeros(shapes[batches.FIELDS[name].axes], batches.FIELDS[name].device) for name in names}
        outputs, variables = self.model.init_with_output(rng.key_for(key, "model"), example, deterministic=True)
        hidden = jnp.zeros((1, 1, outputs["hidden"].shape[-1]), jnp.float32)
        table = jnp.zeros(outputs["table"].shape, jnp.float32)
        head = self.objective.head().init(rng.key_for(key, "head"), hidden, table)
        return {"model": variables["params"], **({"head": head["params"]} if head else {})}


def sees_future(model: ModuleType, config: Any = None) -> bool | str:
    """Whether a position of a model depends on later ones: True, False, or 'visit' for those of its own visit.

    A model says it by SEES_FUTURE, or, where it depends on its settings, by `sees_future(config)`.
    """
    return model.sees_future(config) if hasattr(model, "sees_future") else model.SEES_FUTURE


def check_pair(model: ModuleType, objective: ModuleType, model_config: Any = None) -> None:
    """Raises InputError for a model that shows a position its future under an objective that predicts it.

    An objective says by ALLOWS_FUTURE what it can stand of what `sees_future` says.
    """
    sees = sees_future(model, model_config)
    if sees and objective.ALLOWS_FUTURE not in (True, sees):
        names = model.__name__.rsplit(".", 1)[-1], objective.__name__.rsplit(".", 1)[-1]
        raise InputError(
            f"The model {names[0]} lets a position see later ones, which the objective {names[1]} would have it "
            "predict; choose a causal model"
            + (", or model.bidirectional = False." if getattr(model_config, "bidirectional", False) else ".")
        )


def build(config: Mapping[str, Any], vocabulary: vocabularies.Vocabulary) -> Parts:
    """Builds the model and the objective of a resolved config.

    Raises:
      InputError: an unknown name or setting, an illegal pair, or a context longer than the positions.
    """
    sections = {name: dict(config[name]) for name in ("model", "objective")}
    model_module = plugins.find("ehrjax.models", sections["model"].pop("name"), "Model", key="model.name")
    objective_module = plugins.find(
        "ehrjax.objectives", sections["objective"].pop("name"), "Objective", key="objective.name"
    )
    policy = precision.policy(config["precision"])
    for section, module in (("model", model_module), ("objective", objective_module)):
        if hasattr(module, "of_tokens"):
            sections[section] = module.of_tokens(sections[section], vocabulary)
    model_config = model_module.config_from({**sections["model"], model_module.vocab_size_key: len(vocabulary)})
    check_pair(model_module, objective_module, model_config)
    model_module.check(model_config, config["data"]["context_length"])
    objective = objective_module.Objective(
        configs.into(objective_module.Config, sections["objective"], where="objective"),
        vocab_size=len(vocabulary),
        num_specials=vocabulary.num_specials,
        mask_id=vocabulary.mask,
        policy=policy,
    )
    supervised = hasattr(objective_module, "LABELS")
    available = [n for n, field in batches.FIELDS.items() if field.device and (supervised or n not in SUPERVISION)]
    fields = tuple(sorted({*model_module.FIELDS, *objective_module.FIELDS, "anchors"}))
    batches.require(available, model_module.FIELDS, by=f"The model {config['model']['name']}")
    batches.require(available, objective_module.FIELDS, by=f"The objective {config['objective']['name']}")
    return Parts(model_module.Model(model_config, policy), objective, fields, config["data"]["context_length"])


def select(batch: Mapping[str, np.ndarray], fields: tuple[str, ...]) -> dict[str, np.ndarray]:
    """The device fields among `fields` of a host batch."""
    return {name: array for name, array in batches.device_fields(batch).items() if name in fields}


@dataclass(frozen=True)
class Run:
    """An opened run.

    Attributes:
      folder: its workdir.
      config: the resolved config, plain nested dicts.
      vocabulary: its vocabulary.
      params: {"model": ..., "head": ...}, numpy arrays, float32.
      step: the step that the parameters are from.
      parts: model and objective.
    """

    folder: Path
    config: dict[str, Any]
    vocabulary: vocabularies.Vocabulary
    params: dict[str, Any]
    step: int
    parts: Parts

    @property
    def model(self) -> Any:
        """The Linen module: `run.model.apply({"params": run.params["model"]}, batch)`."""
        return self.parts.model

    @property
    def objective(self) -> Any:
        """The training objective."""
        return self.parts.objective

    @cached_property
    def _encode(self) -> Callable[..., jax.Array]:
        return jax.jit(lambda p, b: self.model.apply({"params": p["model"]}, b, deterministic=True)["hidden"])

    @cached_property
    def _states(self) -> Callable[..., jax.Array]:
        def states(params: Any, batch: Mapping[str, jax.Array]) -> jax.Array:
            given = {"params": params["model"]}
            outputs, left = self.model.apply(given, batch, deterministic=True, mutable=[STATES])
            return left[STATES]["states"][0] if left else outputs["hidden"]

        return jax.jit(states)

    @cached_property
    def _logits(self) -> Callable[..., jax.Array]:
        head = self.objective.head()

        def logits(params: Any, batch: Mapping[str, jax.Array]) -> jax.Array:
            outputs = self.model.apply({"params": params["model"]}, batch, deterministic=True)
            return head.apply({"params": params.get("head", {})}, outputs["hidden"], outputs["table"])

        return jax.jit(logits)

    def _device(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        if "window_start" in batch:  # a host batch, as `ehrjax.data.collate` makes it
            return select(batch, self.parts.fields)
        batches.require(batch, self.parts.model_fields, by="The model")
        return {name: array for name, array in batch.items() if name in self.parts.fields}

    def encode(self, batch: Mapping[str, Any]) -> jax.Array:
        """Hidden states [B, L, D] of a batch (host or device), without dropout. Pure and jitted."""
        return self._encode(self.params, self._device(batch))

    def states(self, batch: Mapping[str, Any]) -> jax.Array:
        """As `encode`, of a model that leaves more in the collection STATES that: what a probe may see."""
        return self._states(self.params, self._device(batch))

    def attention(self, batch: Mapping[str, Any]) -> np.ndarray:
        """What each position attends to, [layers, B, heads, L, L] float32; padding's rows are zeros. For small batches.

        Raises:
          InputError: the model has no attention.
        """
        if not hasattr(self.model.config, "scan"):
            raise InputError(f"The model {self.config['model']['name']} has no attention.")
        flat = type(self.model)(dataclasses.replace(self.model.config, scan=False), self.model.policy)
        params = trees.unstack({"model": self.params["model"]})["model"]
        _, kept = flat.apply({"params": params}, self._device(batch), deterministic=True, mutable=["attention_weights"])
        found = trees.flatten(kept["attention_weights"])
        layers = len({path.split("/")[1] for path in found})
        return np.stack([np.asarray(found[f"layers/{i}/attention/weights"][0]) for i in range(layers)])

    @cached_property
    def _predictions(self) -> Callable[..., Mapping[str, jax.Array]]:
        head = self.objective.head()

        def predictions(params: Any, batch: Mapping[str, jax.Array]) -> Mapping[str, jax.Array]:
            outputs = self.model.apply({"params": params["model"]}, batch, deterministic=True)
            head_apply = lambda p, *inputs: head.apply({"params": p}, *inputs)  # noqa: E731
            return self.objective.predictions(head_apply, params.get("head", {}), outputs, batch)

        return jax.jit(predictions)

    def predictions(self, batch: Mapping[str, Any]) -> Mapping[str, jax.Array]:
        """What a supervised objective says of each window of a batch: see its `predictions`. Pure and jitted.

        Raises:
          InputError: the run was not trained on labels.
        """
        self._must(supervised=True, use="logits")
        return self._predictions(self.params, self._device(batch))

    @property
    def supervised(self) -> bool:
        """Whether it was trained on labels."""
        return hasattr(sys.modules[type(self.objective).__module__], "LABELS")

    def _must(self, *, supervised: bool, use: str) -> None:
        name = self.config["objective"]["name"]
        if self.supervised != supervised:
            raise InputError(f"The objective {name} does not give that; use run.{use}(batch).")

    def logits(self, batch: Mapping[str, Any]) -> jax.Array:
        """Scores of every token at every position, [B, L, V] float32. Pure and jitted; meant for small batches.

        Raises:
          InputError: the run was trained on labels, so it has no scores of tokens.
        """
        self._must(supervised=False, use="predictions")
        if why := getattr(sys.modules[type(self.objective).__module__], "NO_LOGITS", ""):
            raise InputError(f"The objective {self.config['objective']['name']} {why}, so there are no logits.")
        return self._logits(self.params, self._device(batch))


def checkpoints_of(folder: Path, checkpoint_name: str | None = None) -> Path:
    """The folder of a workdir's checkpoints of that name; by default the best ones if there are any."""
    where = folder / "checkpoints"
    return where / (checkpoint_name or ("best" if checkpoint.steps(where / "best") else "last"))


def load(folder: str | Path, *, checkpoint_name: str | None = None, parameters: bool = True) -> Run:
    """Opens a workdir.

    Args:
      folder: the run's workdir.
      checkpoint_name: 'best' or 'last'; by default the best if there is one.
      parameters: read them; otherwise `params` is empty and the step 0.

    Raises:
      InputError: the folder is no workdir, has no checkpoint, or its vocabulary does not fit the checkpoint.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"The run {folder} does not exist.")
    saved = files.read_json(folder / "config.json", what="run's folder")
    vocabulary = vocabularies.read(folder / "vocab.csv")
    if not isinstance(saved.get("config"), dict) or "vocabulary_fingerprint" not in (saved.get("dataset") or {}):
        raise InputError(f"{folder / 'config.json'} is not what a run has written; restore it.")
    if vocabulary.fingerprint != saved["dataset"]["vocabulary_fingerprint"]:
        raise InputError(
            f"{folder / 'vocab.csv'} is not the vocabulary of this run's checkpoint; put the old one back."
        )
    parts = build(saved["config"], vocabulary)
    if not parameters:
        return Run(folder, saved["config"], vocabulary, {}, 0, parts)
    where = checkpoints_of(folder, checkpoint_name)
    params, step = checkpoint.read_subtree(where, "params")
    expected = jax.eval_shape(parts.init, jax.random.key(0))
    checkpoint.check_shapes(params, expected, where=where)
    return Run(folder, saved["config"], vocabulary, params, step, parts)
