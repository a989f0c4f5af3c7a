"""Checkpoints of the PyTorch projects that ehrjax replaces, as runs: BEHRT, nanoGPT, the token pipeline's models."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ehrjax.core import files, plugins
from ehrjax.core.errors import InputError
from ehrjax.data import token_files
from ehrjax.hf import incoming, tensors, tokens
from ehrjax.vocab.recipe import SPECIALS


def from_torch(
    path: str | Path, output: str | Path, *, vocab: str | Path = "", kind: str = "", num_heads: int | None = None
) -> dict[str, Any]:
    """Converts a checkpoint of torch.save (a state_dict, or one under model_state_dict or model) or safetensors.

    Args:
      path: the file.
      output: the run's folder to write; it must not exist or be empty.
      vocab: its vocabulary, a CSV of token,str[,count]; without it tokens are numbers.
      kind: the family, where the names do not tell it.
      num_heads: attention heads, where the checkpoint does not tell.

    Returns:
      See `incoming.from_hf`.

    Raises:
      InputError: the file is damaged or would run code, its names are no known project's, or they do not fit.
    """
    files.refuse_existing(output, what="run")
    path = Path(path)
    if not path.is_file():
        raise InputError(f"The checkpoint {path} does not exist.")
    found = tensors.open_file(path)
    family = _family(found, kind, path)
    there = {name: tensor.shape for name, (_, tensor) in incoming.canonical(found, family.PREFIX).items()}
    told = {} if path.suffix == ".safetensors" else tensors.load_torch(path)
    try:
        settings = family.settings_of(there, told if isinstance(told, Mapping) else {}, num_heads)
    except KeyError as error:
        raise InputError(f"{path} is no whole checkpoint of {incoming.name_of(family)}: {error} is missing.") from error
    except (IndexError, ValueError) as error:
        raise InputError(
            f"{path} is no whole checkpoint of {incoming.name_of(family)}: a tensor that its size is read from has "
            "another number of axes, or there are no layers; save the whole state_dict."
        ) from error
    return incoming.write(
        found,
        output,
        family=family,
        config={},
        settings=settings,
        read_rows=lambda count: _rows(vocab, family.SPECIALS_AT, count),
        given=None,
        where=str(path),
        own_tokens=bool(vocab),
    )


def _family(found: Mapping[str, tensors.Tensor], kind: str, path: Path) -> ModuleType:
    names = plugins.names(incoming.FAMILIES, "SIGNATURE")
    if kind:
        return plugins.find(incoming.FAMILIES, kind, "SIGNATURE", key="kind")
    for name in names:
        family = plugins.find(incoming.FAMILIES, name, "SIGNATURE", key="kind")
        if family.SIGNATURE in incoming.canonical(found, family.PREFIX):
            return family
    first = ", ".join(list(found)[:3])
    raise InputError(f"{path} holds {first}, ..., the names of no project that is known; they are {', '.join(names)}.")


def _rows(vocab: str | Path, specials: Mapping[str, int], count: int) -> tokens.Rows:
    if not vocab:
        return tokens.from_strings({}, specials, count)
    told = token_files.read_vocabulary(Path(vocab))
    if len(told.strings) != count:
        raise InputError(f"{vocab} has {len(told.strings)} tokens, the checkpoint's table {count} rows.")
    vocabulary = token_files.vocabulary_of(told, np.zeros(len(SPECIALS) + count, np.int64))
    rows = np.full(len(vocabulary), -1, np.int64)
    # The first of several that mean the same special.
    rows[told.final[::-1]] = np.arange(count)[::-1]
    return tokens.Rows(vocabulary, rows, count)
