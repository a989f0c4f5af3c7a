"""YAML configs of token-based pipelines (`model: type ...`, `data:`, `optimiser:`, ...) as configs of ehrjax.

What each key becomes is KEYS, which docs/yaml.md repeats; a key that is not there is refused by name.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ehrjax.core import config as configs
from ehrjax.core.errors import InputError
from ehrjax.training import defaults

MODELS = {"lstm": "lstm", "lstm_note": "lstm_notes", "transformer": "decoder", "gpt2": "gpt2"}
"""model.type -> the model's module."""

KEYS: dict[str, str] = {
    "name": "wandb.name, and the default workdir runs/NAME",
    "model.type": "model.name: lstm, lstm_notes (lstm_note), decoder (transformer) or gpt2",
    "model.vocab_size": "checked against the vocabulary's rows",
    "model.embedding_dim": "model.embedding_dim (lstm, lstm_note), model.hidden_dim (transformer, gpt2)",
    "model.model_dim": "model.hidden_dim (transformer, gpt2)",
    "model.hidden_dim": "model.hidden_dim (lstm, lstm_note)",
    "model.n_layers": "model.num_layers",
    "model.n_heads": "model.num_heads (transformer, gpt2)",
    "model.dropout": "model.dropout and model.attention_dropout",
    "model.context_length": "model.max_positions (transformer, gpt2)",
    "model.bias": "model.use_bias (gpt2)",
    "data.train_dataset_dir": "the train split of DIR/data/tokens",
    "data.val_dataset_dir": "its tuning split",
    "data.vocab_path": "its vocabulary",
    "data.batch_size": "batch_size (rows; packed, so each holds about sequence_length tokens)",
    "data.sequence_length": "data.context_length",
    "data.shuffle": "data.shuffle",
    "data.insert_static_demographic_tokens": "whether tokens without a time are kept",
    "data.clinical_notes.dir": "the notes of DIR/data/tokens, their vectors in DIR/data/notes (lstm_note)",
    "data.clinical_notes.max_note_count": "data.newest_notes; 0, the default, is all",
    "data.clinical_notes.max_tokens_per_note": "tokens of a note that the encoder reads; default 512",
    "data.clinical_notes.encoder": "the text encoder (ehrjax.encode notes); default emilyalsentzer/Bio_ClinicalBERT",
    "optimiser.type": "optimizer.name: adam or adamw, with PyTorch's other settings",
    "optimiser.lr": "optimizer.learning_rate",
    "optimiser.scheduler.type": "schedule.name: warmup_cosine; without a scheduler the rate is constant",
    "optimiser.scheduler.warmup_steps": "schedule.warmup_steps",
    "optimiser.scheduler.lr_min_ratio": "schedule.lr_min_ratio",
    "loss_function.type": "objective.name: cross_entropy is next_token",
    "training.epochs": "num_epochs",
    "training.device": "cuda or cpu: the platform of JAX",
}

_NEEDED = (
    "model.type",
    "model.vocab_size",
    "data.train_dataset_dir",
    "data.val_dataset_dir",
    "data.vocab_path",
    "data.sequence_length",
    "training.epochs",
)
_TYPES = {
    **dict.fromkeys(("model.dropout", "optimiser.lr", "optimiser.scheduler.lr_min_ratio"), float),
    **dict.fromkeys(("data.shuffle", "data.insert_static_demographic_tokens", "model.bias"), bool),
}
_WORDS = ("type", "device", "name", "_dir", "_path", ".dir", ".encoder")
_NOTES = "data.clinical_notes."
_ZERO = ("optimiser.scheduler.warmup_steps", f"{_NOTES}max_note_count")
_OF_TRANSFORMERS = ("model.model_dim", "model.n_heads", "model.context_length")


@dataclass(frozen=True)
class Notes:
    """The section data.clinical_notes: the folder of .pkl files, the encoder, and how much of a note it reads."""

    folder: Path
    encoder: str
    max_tokens: int


@dataclass(frozen=True)
class Translated:
    """A YAML config in our terms.

    Attributes:
      name: of the experiment.
      config: as `configs.to_dict` gives one; `data.path` is empty until the tokens are made.
      train, tuning: folders of .pkl files; vocabulary: the CSV file.
      vocabulary_size: what the YAML says it has.
      static_tokens: whether tokens without a time are kept.
      device: cuda or cpu.
      notes: of lstm_note.
    """

    name: str
    config: dict[str, Any]
    train: Path
    tuning: Path
    vocabulary: Path
    vocabulary_size: int
    static_tokens: bool
    device: str
    notes: Notes | None = None


def read(path: str | Path) -> Translated:
    """Reads and translates a YAML config.

    Raises:
      InputError: no such file, no YAML, a key that is unknown, missing or of the wrong type, or a value that cannot be.
    """
    path = Path(path)
    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"The YAML config {path} does not exist.") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path} cannot be read as YAML: {str(error).splitlines()[0]}.") from error
    if not isinstance(given, Mapping):
        raise InputError(f"{path} holds no keys; it must have model, data, optimiser and training.")
    flat = _checked(configs.flatten(given), path)
    if flat["loss_function.type"] != "cross_entropy":
        raise InputError(f"{path}: loss_function.type is {flat['loss_function.type']!r}; only cross_entropy is known.")
    if flat["training.device"] not in ("cuda", "cpu"):
        raise InputError(f"{path}: training.device is {flat['training.device']!r}; it must be cuda or cpu.")
    config = defaults.get()
    config.model = _model(flat, path)
    own_output = MODELS[flat["model.type"]] != "gpt2"
    config.objective = dict(name="next_token", tied=not own_output, use_bias=own_output)
    config.num_steps, config.num_epochs = 0, flat["training.epochs"]
    config.batch_size = flat["data.batch_size"]
    config.data.context_length = flat["data.sequence_length"]
    config.data.shuffle = flat["data.shuffle"]
    config.data.newest_notes = flat.get(f"{_NOTES}max_note_count", 0)
    config.wandb.name = flat["name"]
    _optimise(config, flat, path)
    return Translated(
        flat["name"],
        configs.to_dict(config),
        *(_folder(flat[f"data.{key}"], f"data.{key}", path) for key in ("train_dataset_dir", "val_dataset_dir")),
        Path(flat["data.vocab_path"]),
        flat["model.vocab_size"],
        flat["data.insert_static_demographic_tokens"],
        flat["training.device"],
        _notes(flat, path),
    )


def _checked(flat: dict[str, Any], path: Path) -> dict[str, Any]:
    """The keys with defaults for those that may be left out."""
    scheduled = any(key.startswith("optimiser.scheduler.") for key in flat)
    flat = {key: value for key, value in flat.items() if value not in ({}, None)}
    for key, value in flat.items():
        if key not in KEYS:
            close = difflib.get_close_matches(key, KEYS, n=1)
            hint = f"; did you mean {close[0]}?" if close else "."
            raise InputError(f"{path} has an unknown key {key!r}{hint}")
        wanted = _TYPES.get(key, str if key.endswith(_WORDS) else int)
        if wanted is float and isinstance(value, str):
            value = flat[key] = _number(value)
        right = isinstance(value, (int, float) if wanted is float else wanted)
        if not right or (isinstance(value, bool) and wanted is not bool):
            raise InputError(f"{path}: {key} is {value!r}; it must be {_said(wanted)}.")
        if (
            wanted in (int, float)
            and not 0 <= value < float("inf")
            or (wanted is int and value < 1 and key not in _ZERO)
        ):
            raise InputError(f"{path}: {key} is {value!r}; it must be {'positive' if wanted is int else 'at least 0'}.")
    for key in _NEEDED:
        if key not in flat:
            raise InputError(f"{path} lacks the key {key}.")
    if flat["data.sequence_length"] < 8:
        raise InputError(f"{path}: data.sequence_length is {flat['data.sequence_length']}; it must be at least 8.")
    if scheduled and "optimiser.scheduler.type" not in flat:
        raise InputError(f"{path} lacks the key optimiser.scheduler.type.")
    return {
        "name": path.stem,
        "model.dropout": 0.1,
        "data.batch_size": 32,
        "data.shuffle": True,
        "data.insert_static_demographic_tokens": True,
        "optimiser.type": "adamw",
        "optimiser.lr": 1e-3,
        "loss_function.type": "cross_entropy",
        "training.device": "cuda",
        **flat,
    }


def _number(text: str) -> float | str:
    """YAML takes 1e-3 for text, since it has no point."""
    try:
        return float(text)
    except ValueError:
        return text


def _said(kind: type) -> str:
    return {int: "a whole number", float: "a number", bool: "true or false", str: "text"}[kind]


def _model(flat: Mapping[str, Any], path: Path) -> dict[str, Any]:
    kind = flat["model.type"]
    if kind not in MODELS:
        raise InputError(f"{path}: model.type is {kind!r}; it must be one of {', '.join(MODELS)}.")
    transformer = not kind.startswith("lstm")
    foreign = [key for key in _OF_TRANSFORMERS if key in flat and not transformer]
    foreign += ["model.hidden_dim"] if transformer and "model.hidden_dim" in flat else []
    foreign += ["model.bias"] if kind != "gpt2" and "model.bias" in flat else []
    if foreign:
        raise InputError(f"{path}: {foreign[0]} is no setting of the model {kind}; remove it.")
    if transformer and {"model.model_dim", "model.embedding_dim"} <= set(flat):
        raise InputError(f"{path} has model.model_dim and model.embedding_dim, which mean the same; keep one.")
    own = {"model.n_layers": "num_layers", "model.n_heads": "num_heads", "model.context_length": "max_positions"}
    own |= {"model.bias": "use_bias"}
    own |= {"model.model_dim": "hidden_dim", "model.embedding_dim": "hidden_dim" if transformer else "embedding_dim"}
    own |= {} if transformer else {"model.hidden_dim": "hidden_dim"}
    model = {"name": MODELS[kind], **{name: flat[key] for key, name in own.items() if key in flat}}
    model["dropout"] = flat["model.dropout"]
    if transformer:
        model["attention_dropout"] = flat["model.dropout"]
        model.setdefault("max_positions", flat["data.sequence_length"])
    if kind == "gpt2":
        model["gelu"] = "erf"  # nanoGPT's, from which the pipeline's GPT-2 comes
    return model


def _notes(flat: Mapping[str, Any], path: Path) -> Notes | None:
    given = sorted(key for key in flat if key.startswith(_NOTES))
    if flat["model.type"] != "lstm_note":
        if given:
            raise InputError(f"{path}: {given[0]} is no setting of the model {flat['model.type']}; remove it.")
        return None
    if f"{_NOTES}dir" not in flat:
        raise InputError(f"{path} lacks the key {_NOTES}dir.")
    folder = _folder(flat[f"{_NOTES}dir"], f"{_NOTES}dir", path)
    encoder = flat.get(f"{_NOTES}encoder", "emilyalsentzer/Bio_ClinicalBERT")
    return Notes(folder, encoder, flat.get(f"{_NOTES}max_tokens_per_note", 512))


def _optimise(config: Any, flat: Mapping[str, Any], path: Path) -> None:
    """PyTorch's Adam or AdamW with its own defaults, no clipping, and the schedule."""
    kind = flat["optimiser.type"]
    if kind not in ("adam", "adamw"):
        raise InputError(f"{path}: optimiser.type is {kind!r}; it must be adam or adamw.")
    config.optimizer = dict(
        name=kind,
        learning_rate=float(flat["optimiser.lr"]),
        b1=0.9,
        b2=0.999,
        eps=1e-8,
        weight_decay=0.01 if kind == "adamw" else 0.0,
        decay_rules=(("", 1.0),),
        rate_rules=(("", 1.0),),
        clip_norm=0.0,
        accumulate=1,
    )
    schedule = flat.get("optimiser.scheduler.type")
    if schedule not in (None, "warmup_cosine"):
        raise InputError(f"{path}: optimiser.scheduler.type is {schedule!r}; it must be warmup_cosine.")
    config.schedule = dict(
        name=schedule or "constant",
        warmup_steps=flat.get("optimiser.scheduler.warmup_steps", 0),
        lr_min_ratio=float(flat.get("optimiser.scheduler.lr_min_ratio", 0.0)),
    )


def _folder(text: str, key: str, path: Path) -> Path:
    if not Path(text).is_dir():
        raise InputError(f"{path}: {key} is {text}, which is no folder.")
    return Path(text)
