"""The PyTorch side of a comparison: a HuggingFace folder that transformers opens whole, or says why not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ehrjax.core import files
from ehrjax.core.errors import InputError
from ehrjax.hf import incoming, names, rules, tensors

_REMOTE = Path(__file__).parent / "remote"


class TorchSide:
    """A HuggingFace model: sequence -> last hidden states and logits.

    Attributes:
      family: the family's module.
      config: the folder's config.json.
      settings: of the model, as the config says them.
      longest: tokens a sequence may have.
      has_head: whether it has an output layer over the tokens.
    """

    def __init__(self, folder: Path) -> None:
        """Opens a folder; what transformers would fill with random numbers is refused.

        Raises:
          InputError: torch is missing, or the folder cannot be opened, has code that is not ours, or has not all of
            the model under names that transformers knows.
        """
        try:
            import torch
        except ImportError as error:
            raise InputError("verify runs the PyTorch side, which needs torch; pip install 'ehrjax[torch]'.") from error
        if not folder.is_dir():
            raise InputError(f"The HuggingFace folder {folder} does not exist; name a folder that is here.")
        self.config = files.read_json(folder / "config.json", what="HuggingFace model")
        self.family = incoming.family_of(self.config, folder / "config.json")
        self.settings, objective = self.family.settings_from(self.config)
        self.longest = self.settings["max_positions"] - self.settings.get("position_offset", 0)
        classes = self.config.get("architectures") or []
        causal = any(name.endswith(("LMHeadModel", "ForCausalLM")) for name in classes)
        self.has_head = causal or any(name.endswith(("ForMaskedLM", "ForPreTraining")) for name in classes)
        # Damaged files, and those that would run code, in our words.
        tensors.open_folder(folder)
        kind = "AutoModel"
        if self.has_head:
            kind = "AutoModelForCausalLM" if causal else "AutoModelForMaskedLM"
        self._folder, self._torch = folder, torch
        self._model, missing = _open(folder, kind, trusted=_is_ours(folder, self.family, self.config), torch=torch)
        self._refuse_missing(missing, tied=objective["tied"])

    def _refuse_missing(self, missing: Sequence[str], *, tied: bool) -> None:
        """Raises InputError for parameters of the model that transformers did not find in the folder."""
        family, layers = self.family, self.settings["num_layers"]
        needed = {
            name
            for step, _, _, group in rules.steps_of(incoming.rules_of(family, self.settings), layers)
            for name in step
            if self.has_head or not group
        }
        if not tied:
            needed -= set(getattr(family, "UNUSED", {}))
        lost = sorted(name for name in missing if names.canonical_name(name, family.PREFIX) in needed)
        if not lost:
            return
        hint = "copy the model's files again"
        if wrapper := names.wrapper_of(tensors.open_folder(self._folder), family):
            hint = f"the names there begin with {wrapper!r}, so write the run again with to-hf --plain_names"
        raise InputError(f"transformers does not find {lost[0]} ({len(lost)} in all) in {self._folder}; {hint}.")

    def __call__(self, tokens: Sequence[int]) -> tuple[np.ndarray, np.ndarray | None]:
        """Last hidden states [L, D], and logits [L, rows] where there is a head, of ids of the folder's table.

        Raises:
          InputError: the model fails.
        """
        ids = self._torch.tensor([list(tokens)])
        try:
            with self._torch.no_grad():
                out = self._model(input_ids=ids, attention_mask=self._torch.ones_like(ids), output_hidden_states=True)
        except Exception as error:  # whatever a model of transformers raises
            raise InputError(
                f"The model of {self._folder} fails on {len(tokens)} tokens ({_first_line(error)})."
            ) from error
        logits = out.logits[0].numpy() if self.has_head else None
        states = out.hidden_states[-1] if out.get("hidden_states") is not None else out.last_hidden_state
        return states[0].numpy(), logits


def _is_ours(folder: Path, family: ModuleType, config: Mapping[str, Any]) -> bool:
    """Whether the code in a folder is, byte for byte, what `to-hf` writes.

    Raises:
      InputError: transformers has no class of this family, and the folder has none, or one that is not ours.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    if config["model_type"] in CONFIG_MAPPING:
        return False
    remote = getattr(family, "REMOTE", "")
    if not remote:
        raise InputError(
            f"transformers has no class for {config['model_type']}, which {folder} is; compare on the side that has it."
        )
    given, ours = folder / f"{remote}.py", _REMOTE / f"{remote}.py"
    if config.get("auto_map") != family.AUTO_MAP or not given.is_file() or given.read_bytes() != ours.read_bytes():
        raise InputError(f"{folder} has code that is not what to-hf writes, and it is not run; write the run again.")
    return True


def _open(folder: Path, kind: str, *, trusted: bool, torch: Any) -> tuple[Any, list[str]]:
    """The model, and the names of what transformers did not find.

    Raises:
      InputError: transformers cannot open it, or shapes differ.
    """
    import transformers

    try:
        model, info = getattr(transformers, kind).from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=trusted,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except Exception as error:  # whatever transformers raises
        raise InputError(f"transformers cannot open {folder} ({_first_line(error)}).") from error
    if info["mismatched_keys"]:
        name = sorted(key[0] if isinstance(key, tuple) else key for key in info["mismatched_keys"])[0]
        raise InputError(f"{name} of {folder} has another shape than its config says; copy the model's files again.")
    return model.eval(), list(info["missing_keys"])


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].rstrip('.')[:200]}" if lines else type(error).__name__
