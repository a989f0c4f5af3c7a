"""What a converted run remembers of where it came from, so that the way back loses nothing: the folder `source/`."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ehrjax.core import files
from ehrjax.core.errors import InputError
from ehrjax.hf import tensors
from ehrjax.hf.tokens import OURS, TOKENIZER_FILES
from ehrjax.vocab import vocabulary as vocabularies

FOLDER = "source"
NAMES, ROWS, HEADS, CONFIG, BESIDE = "names.json", "rows.npy", "heads.safetensors", "config.json", "beside"
# Heads that no class of transformers would know what to do with in model.safetensors.
OTHER_HEADS = "ehrjax_heads.safetensors"
_TOKENS = (*TOKENIZER_FILES, OURS)
# Small files that say how a model is used; weights and code are none of these.
_SUFFIXES, _MAX_BYTES = (".json", ".jinja", ".txt"), 1 << 20
# Sentence-transformers' modules, and chat templates beside the first one.
_SUBFOLDERS = re.compile(r"\d+_\w+$|additional_chat_templates$")
# What speaks of token ids or of texts, which mean nothing in another vocabulary.
_OF_THE_VOCABULARY = ("generation_config.json", "chat_template", "additional_chat_templates")


@dataclass(frozen=True)
class Source:
    """Where a run came from.

    Attributes:
      family: the family's module name.
      config: the foreign config.
      settings: of the model and of the objective, as the config was understood.
      names: canonical name -> name there and dtype there.
      rows: see tokens.Rows.
      count: rows there.
      fresh: paths that the checkpoint did not have.
      copies: name -> name that it repeats (canonical).
      stands: name -> the name under which the checkpoint has the tensor (canonical).
      heads: names (there) of the tensors in heads.safetensors.
      own_tokens: the vocabulary is the run's own, which no tokenizer there says.
      folder: the run's `source` folder.
    """

    family: str
    config: dict[str, Any]
    settings: tuple[dict[str, Any], dict[str, Any]]
    names: dict[str, tuple[str, str]]
    rows: np.ndarray
    count: int
    fresh: tuple[str, ...] = ()
    copies: dict[str, str] = field(default_factory=dict)
    stands: dict[str, str] = field(default_factory=dict)
    heads: tuple[str, ...] = ()
    own_tokens: bool = False
    folder: Path = Path()


def write(run: Path, told: Source, *, heads: Mapping[str, np.ndarray], given: Path | None) -> None:
    """Writes the folder `source` of a run.

    Args:
      run: the run's folder.
      told: what to remember; its `heads` and `folder` are not read.
      heads: name there -> tensor that the run does not use.
      given: the foreign folder, whose tokenizer and small files are kept.
    """
    from safetensors.numpy import save_file

    folder = run / FOLDER
    folder.mkdir()
    files.write_json(
        folder / NAMES,
        {
            "family": told.family,
            "settings": list(told.settings),
            "names": {name: list(pair) for name, pair in told.names.items()},
            "count": told.count,
            "fresh": list(told.fresh),
            "copies": dict(told.copies),
            "stands": dict(told.stands),
            "heads": list(heads),
            "own_tokens": told.own_tokens,
        },
    )
    files.write_json(folder / CONFIG, dict(told.config))
    np.save(folder / ROWS, told.rows, allow_pickle=False)
    if heads:
        save_file({name: tensors.whole(head) for name, head in heads.items()}, folder / HEADS)
    if given:
        for name in _TOKENS:
            if (given / name).is_file():
                shutil.copyfile(given / name, folder / name)
        _copy_beside(given, folder / BESIDE)


def _copy_beside(given: Path, target: Path) -> None:
    """Copies the small files of a foreign folder that are neither its weights, its code, its config nor its tokens."""
    for path in sorted([*given.iterdir(), *given.glob("*/*")]):
        name = path.relative_to(given)
        if not path.is_file() or (len(name.parts) > 1 and not _SUBFOLDERS.match(name.parts[0])):
            continue
        small = path.suffix in _SUFFIXES and path.stat().st_size <= _MAX_BYTES
        known = len(name.parts) == 1 and (name.name in (*_TOKENS, CONFIG) or name.name.endswith(".index.json"))
        if (small and not known) or str(name) == OTHER_HEADS:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target / name)


def write_back(told: Source, target: Path) -> None:
    """Copies the tokenizer and the small files of a foreign folder into the one that is written."""
    for name in _TOKENS:
        if (told.folder / name).is_file():
            shutil.copyfile(told.folder / name, target / name)
    if (told.folder / BESIDE).is_dir():
        shutil.copytree(told.folder / BESIDE, target, dirs_exist_ok=True)


def read(run: Path) -> Source | None:
    """What a run remembers; None for one that was born here.

    Raises:
      InputError: the folder is damaged.
    """
    folder = run / FOLDER
    if not folder.is_dir():
        return None
    told = files.read_json(folder / NAMES, what="converted run")
    config = files.read_json(folder / CONFIG, what="converted run")
    try:
        rows = np.load(folder / ROWS, allow_pickle=False)
        count = int(told["count"])
        if rows.shape != (len(vocabularies.read(run / "vocab.csv")),) or rows.min() < -1 or rows.max() >= count:
            raise ValueError(ROWS)
        model, objective = told["settings"]
        return Source(
            family=told["family"],
            config=config,
            settings=(dict(model), dict(objective)),
            names={name: (given, dtype) for name, (given, dtype) in told["names"].items()},
            rows=rows,
            count=count,
            fresh=tuple(told["fresh"]),
            copies=dict(told["copies"]),
            stands=dict(told["stands"]),
            heads=tuple(told["heads"]),
            own_tokens=bool(told["own_tokens"]),
            folder=folder,
        )
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        raise InputError(f"{folder} is damaged, or of an older ehrjax; convert the checkpoint again.") from error


def heads_of(source: Source) -> dict[str, tensors.Tensor]:
    """The tensors that were kept for the way back, by their names there."""
    return tensors.open_safetensors(source.folder / HEADS) if source.heads else {}


def carry(old: Path, new: Path, *, trained: bool = True) -> None:
    """Lets a run that starts from a converted one, in its vocabulary, remember the same source.

    Args:
      old: the converted run.
      new: the run's folder.
      trained: what the checkpoint did not have and started afresh is trained there, and leaves with the rest.
    """
    if (old / FOLDER).is_dir() and not (new / FOLDER).exists():
        with files.written_folder(new / FOLDER, what="source") as folder:
            shutil.copytree(old / FOLDER, folder, dirs_exist_ok=True)
            if trained:
                told = files.read_json(folder / NAMES, what="converted run")
                files.write_json(folder / NAMES, {**told, "fresh": []})


def carry_beside(old: Source, new: Path) -> None:
    """Lets a run with another vocabulary keep the small files that do not speak of tokens."""
    target = new / FOLDER / BESIDE
    if (old.folder / BESIDE).is_dir():
        shutil.copytree(old.folder / BESIDE, target, ignore=lambda _, names: [
            name for name in names if name.startswith(_OF_THE_VOCABULARY)
        ])  # fmt: skip
