"""A run from a YAML config of a token-based pipeline: its tokens and notes before, the pipeline's own files after.

DIR/config.yaml       the YAML, as it was given
DIR/training.log      what was printed
DIR/loss.log          epoch,train_loss,val_loss
DIR/model.safetensors the best parameters by path (the pipeline's model.pth); DIR/checkpoints/ has them too
DIR/vocab.csv         the vocabulary, in the run's order
"""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from ehrjax.core import files, trees
from ehrjax.core.errors import InputError
from ehrjax.core.writer import read_metrics
from ehrjax.data import pipeline, token_dataset, token_files
from ehrjax.training.yaml_configs import Translated


def tokens(given: Translated, workdir: Path) -> Path:
    """Makes DIR/data/tokens of the pipeline's .pkl files, unless it is there.

    Raises:
      InputError: a file is damaged, or the vocabulary has another size than the config says.
    """
    count = len(token_files.read_vocabulary(given.vocabulary).strings)
    if count != given.vocabulary_size:
        raise InputError(
            f"model.vocab_size is {given.vocabulary_size}, but {given.vocabulary} has {count} rows; correct the config."
        )
    folder = workdir / "data"
    if not (folder / "tokens").exists():
        together = folder / "files"
        together.mkdir(parents=True, exist_ok=True)
        linked = [("train", given.train), ("val", given.tuning)]
        for name, path in linked + ([("notes", given.notes.folder)] if given.notes else []):
            link = together / name
            link.unlink(missing_ok=True)
            link.symlink_to(path.resolve(), target_is_directory=True)
        settings = token_files.Settings(vocab=str(given.vocabulary.resolve()), static_tokens=given.static_tokens)
        try:
            token_files.read(together, folder / "tokens", settings)
        finally:
            shutil.rmtree(together)
    return folder / "tokens"


def by_epoch(config: dict[str, Any], path: Path, notes: Path | None) -> dict[str, Any]:
    """The config with its tokens and perhaps its notes, evaluated and logged often enough for a loss an epoch."""
    config = {**config, "data": {**config["data"], "path": str(path), "notes": str(notes or "")}}
    steps = _epoch_steps(config)
    every = max(1, steps // 10)
    return {**config, "eval_every": steps, "checkpoint_every": steps, "log_every": every}


def _epoch_steps(config: dict[str, Any]) -> int:
    settings = pipeline.Settings(**config["data"])
    train = pipeline.open_split(token_dataset.open_tokens(settings.path), "train", settings)
    return pipeline.count_steps(train, settings, batch_size=config["batch_size"], seed=config["seed"], epochs=1)


@contextlib.contextmanager
def logged(workdir: Path) -> Iterator[None]:
    """Writes what is printed meanwhile to DIR/training.log too."""
    with open(workdir / "training.log", "a", encoding="utf-8") as log:
        with contextlib.redirect_stdout(_Both(sys.stdout, log)):
            yield


class _Both:
    """Two texts as one."""

    def __init__(self, shown: TextIO, log: TextIO) -> None:
        self._shown, self._log = shown, log

    def write(self, text: str) -> int:
        self._log.write(text)
        return self._shown.write(text)

    def flush(self) -> None:
        self._log.flush()
        self._shown.flush()


def leave(workdir: Path, config: dict[str, Any], path: Path, params: Any) -> None:
    """Writes the pipeline's files into a finished run's folder.

    Args:
      workdir: the run.
      config: what `by_epoch` returned.
      path: the YAML.
      params: the best parameters.
    """
    from safetensors.numpy import save_file

    with files.written_file(workdir / "config.yaml") as temporary:
        shutil.copyfile(path, temporary)
    with files.written_file(workdir / "model.safetensors") as temporary:
        save_file({name: np.ascontiguousarray(leaf) for name, leaf in trees.flatten(params).items()}, temporary)
    lines = read_metrics(workdir / "metrics.jsonl")
    steps = config["eval_every"]
    with files.written_file(workdir / "loss.log") as temporary:
        rows = ["epoch,train_loss,val_loss"]
        for epoch in range(config["num_epochs"]):
            span = range(epoch * steps + 1, (epoch + 1) * steps + 1)
            losses = [line["loss"] for line in lines if line["step"] in span and "loss" in line]
            tuned = [line["tuning_loss"] for line in lines if line["step"] in span and "tuning_loss" in line]
            if losses:
                rows.append(
                    f"{epoch + 1},{np.mean(losses):.6f},{tuned[-1]:.6f}"
                    if tuned
                    else f"{epoch + 1},{np.mean(losses):.6f},"
                )
        Path(temporary).write_text("\n".join(rows) + "\n", encoding="utf-8")
