"""A run whose parameters were made and not trained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ehrjax.core import checkpoint, files
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
