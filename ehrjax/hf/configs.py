"""The config.json that a run leaves with: what it came with, and what its settings are now."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np

from ehrjax.core import plugins
from ehrjax.core.errors import InputError
from ehrjax.hf import incoming, names
from ehrjax.hf.source import Source
from ehrjax.training import run as runs
from ehrjax.vocab.vocabulary import Vocabulary

# Classes whose output layer is what an objective of the family trains.
_LANGUAGE_MODELS = ("ForMaskedLM", "ForPreTraining", "LMHeadModel", "ForCausalLM")


def settings_of(run: runs.Run) -> dict[str, Any]:
    """All settings of a run's model, those that its config leaves out among them."""
    return {**vars(run.model.config), **{key: value for key, value in run.config["model"].items() if key != "name"}}


def of_came(came: Source, family: ModuleType, run: runs.Run) -> dict[str, Any]:
    """The config that a run came with, with every key that its settings have changed since.

    Raises:
      InputError: the family's config cannot say what the run's settings are.
    """
    model, objective = came.settings
    now = settings_of(run)
    was_objective = {"name": family.OBJECTIVE, **objective}
    # Of another objective nothing is in the config.
    own = run.config["objective"]["name"] in objectives(family)
    try:
        before = family.config_to({**now, **model}, was_objective)
        after = family.config_to(now, run.config["objective"] if own else was_objective)
    except InputError as error:
        raise InputError(f"{run.folder} can no longer leave as {incoming.name_of(family)}: {error}") from error
    config = dict(came.config)
    for key in before.keys() - after.keys():
        config.pop(key, None)
    changed = {key: value for key, value in after.items() if key not in before or before[key] != value}
    if "rope_parameters" in changed:
        # Older spellings of the same.
        config = {key: value for key, value in config.items() if key not in ("rope_theta", "rope_scaling")}
    return {**config, **changed}


def of_born(run: runs.Run, family: str) -> tuple[ModuleType, dict[str, Any]]:
    """The family that a run goes out as, and its config.

    Args:
      run: the run.
      family: the family's name, or "" for the first that fits.

    Raises:
      InputError: none fits.
    """
    model, objective = run.config["model"], run.config["objective"]
    reasons = []
    for name in [family] if family else plugins.names(incoming.FAMILIES, "MODEL_TYPES"):
        module = plugins.find(incoming.FAMILIES, name, "MODEL_TYPES", key="family")
        if module.MODEL != model["name"]:
            if family:
                reasons.append(f"{name} is no {model['name']}")
            continue
        try:
            if hasattr(module, "check_born"):
                module.check_born()
            config = module.config_to(settings_of(run), objective)
        except InputError as error:
            reasons.append(f"{name}: {error}")
            continue
        part = "head" if objective["name"] in objectives(module) else "base"
        return module, {**config, "architectures": [architecture(config, module, part)], "dtype": "float32"}
    why = "; ".join(reason.rstrip(".") for reason in reasons) or f"transformers has no {model['name']}"
    raise InputError(f"{run.folder} fits no family of HuggingFace: {why}.")


def objectives(family: ModuleType) -> tuple[str, ...]:
    """The objectives whose head is the family's own."""
    return getattr(family, "OBJECTIVES", (family.OBJECTIVE,))


def architecture(config: Mapping[str, Any], family: ModuleType, part: str) -> str:
    """transformers' class of a config's `model_type` with the family's head ("head") or without one ("base")."""
    return family.ARCHITECTURES[config["model_type"]][part]


def set_architecture(
    config: dict[str, Any], family: ModuleType, came: Source, written: set[str], run: runs.Run
) -> bool:
    """Names the class that has the tensors that are written, and says whether that is another one than came.

    Args:
      config: gets the class's name.
      family: the family's module.
      came: where the run came from.
      written: canonical names of the tensors that the run has.
      run: the run.
    """
    was = (came.config.get("architectures") or [""])[0]
    if config["model_type"] != came.config.get("model_type"):
        # A window that came or went makes a Llama a Mistral or the other way round.
        kinds = [table["base"].removesuffix("Model") for table in family.ARCHITECTURES.values()]
        part = next((was.removeprefix(kind) for kind in kinds if was.startswith(kind)), "Model")
        was = architecture(config, family, "base").removesuffix("Model") + part
        config["architectures"] = [was]
    head, own = architecture(config, family, "head"), names.in_head(family)
    if run.config["objective"]["name"] not in objectives(family):
        if was.endswith(_LANGUAGE_MODELS):
            config["architectures"] = [architecture(config, family, "base")]
            return True
        return not came.names
    if written & own and not own & set(came.names) and was != head:
        # A head that the checkpoint lacked was trained since.
        config["architectures"] = [head]
        return True
    return not came.names


def specials(vocabulary: Vocabulary, rows: np.ndarray) -> dict[str, int | None]:
    """What config.json says of our specials; rows: of our ids in the table that is written."""
    ours = {"pad_token_id": vocabulary.pad, "bos_token_id": vocabulary.cls, "eos_token_id": vocabulary.sep}
    return {name: int(rows[i]) if rows[i] >= 0 else None for name, i in ours.items()}
