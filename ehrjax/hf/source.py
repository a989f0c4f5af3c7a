"""What a converted run remembers of where it came from, so that the way back loses nothing: the folder `source/`."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ehrjax.core import files
from ehrjax.core.errors import InputError
from ehrjax.hf import tensors
from ehrjax.hf.tokens import TOKENIZER_FILES

FOLDER = "source"
NAMES, ROWS, HEADS, CONFIG = "names.json", "rows.npy", "heads.safetensors", "config.json"


@dataclass(frozen=True)
class Source:
    """Where a run came from.

    Attributes:
      folder: the run's `source` folder.
      family: the family's module name.
      config: the foreign config.
      names: canonical name -> name there and dtype there.
      rows: see tokens.Rows.
      count: rows there.
      fresh: paths that the checkpoint did not have.
      copies: name -> name that it repeats (canonical).
      heads: names (there) of the tensors in heads.safetensors.
    """

    folder: Path
    family: str
    config: dict[str, Any]
    names: dict[str, tuple[str, str]]
    rows: np.ndarray
    count: int
    fresh: tuple[str, ...]
    copies: dict[str, str]
    heads: tuple[str, ...]


def write(
    run: Path,
    given: Path | None,
    *,
    family: str,
    config: Mapping[str, Any],
    names: Mapping[str, tuple[str, str]],
    rows: np.ndarray,
    count: int,
    fresh: Sequence[str],
    copies: Mapping[str, str],
    heads: Mapping[str, np.ndarray],
) -> None:
    """Writes the folder `source` of a run; `given` is the foreign folder, whose tokenizer is kept."""
    from safetensors.numpy import save_file

    folder = run / FOLDER
    folder.mkdir()
    files.write_json(
        folder / NAMES,
        {
            "family": family,
            "names": {name: list(told) for name, told in names.items()},
            "count": count,
            "fresh": list(fresh),
            "copies": dict(copies),
            "heads": list(heads),
        },
    )
    files.write_json(folder / CONFIG, dict(config))
    np.save(folder / ROWS, rows, allow_pickle=False)
    if heads:
        save_file({name: np.ascontiguousarray(head) for name, head in heads.items()}, folder / HEADS)
    for name in TOKENIZER_FILES if given else ():
        if (given / name).is_file():
            shutil.copyfile(given / name, folder / name)


def read(run: Path) -> Source | None:
    """What a run remembers; None for one that was born here.

    Raises:
      InputError: the folder is damaged.
    """
    folder = run / FOLDER
    if not folder.is_dir():
        return None
    told = files.read_json(folder / NAMES, what="converted run")
    try:
        rows = np.load(folder / ROWS, allow_pickle=False)
        return Source(
            folder,
            told["family"],
            files.read_json(folder / CONFIG, what="converted run"),
            {name: (given, dtype) for name, (given, dtype) in told["names"].items()},
            rows,
            int(told["count"]),
            tuple(told["fresh"]),
            dict(told["copies"]),
            tuple(told["heads"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder} is damaged; convert the checkpoint again.") from error


def heads_of(source: Source) -> dict[str, tensors.Tensor]:
    """The tensors that were kept for the way back, by their names there."""
    return tensors.open_safetensors(source.folder / HEADS) if source.heads else {}


def carry(old: Path, new: Path) -> None:
    """Lets a run that starts from a converted one remember the same source.

    What the checkpoint did not have and started afresh is trained there, and leaves with the rest.
    """
    if (old / FOLDER).is_dir() and not (new / FOLDER).exists():
        with files.written_folder(new / FOLDER, what="source") as folder:
            shutil.copytree(old / FOLDER, folder, dirs_exist_ok=True)
            told = files.read_json(folder / NAMES, what="converted run")
            files.write_json(folder / NAMES, {**told, "fresh": []})
