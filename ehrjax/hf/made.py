"""Runs as conversions read and write them: parameters that were made and not trained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ehrjax.core import checkpoint, files
from ehrjax.core.errors import InputError
from ehrjax.training import run as runs
from ehrjax.training import workdir as workdirs
from ehrjax.vocab.vocabulary import Vocabulary


def write(folder: Path, params: Any, config: Mapping[str, Any], vocabulary: Vocabulary, *, was: str) -> None:
    """Fills an empty folder with all that `ehrjax.load` needs.

    Args:
      folder: from `files.written_folder`.
      params: {"model": ..., "head": ...}, float32.
      config: the sections that `run.build` reads.
      vocabulary: of the run.
      was: what it was made of.
    """
    checkpoint.write(folder / "checkpoints" / "last", {"params": params}, {"step": 0})
    vocabulary.write(folder / "vocab.csv")
    files.write_json(
        folder / "config.json",
        {
            "config": dict(config),
            "dataset": {"vocabulary_fingerprint": vocabulary.fingerprint, "source": {"dataset_name": was}},
            "versions": workdirs.versions(),
            "git": workdirs.git_hash(),
        },
    )


def load(folder: str | Path, *, parameters: bool = True) -> runs.Run:
    """Opens a run, however damaged its config may be; see `training.run.load`.

    Raises:
      InputError: the run cannot be opened.
    """
    path = Path(folder) / "config.json"
    if path.is_file():
        told = files.read_json(path, what="run's folder")
        sections = told.get("config"), told.get("dataset")
        if not all(isinstance(section, dict) for section in sections):
            raise InputError(f"{path} lacks its sections config and dataset, so {folder} is no run, or a damaged one.")
        if "vocabulary_fingerprint" not in sections[1]:
            raise InputError(f"{path} does not say which vocabulary the run has; copy the run again.")
    return runs.load(folder, parameters=parameters)
