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

from ehrjax.core import config as configs
from ehrjax.core import files, trees
from ehrjax.core.errors import InputError
from ehrjax.core.writer import read_metrics
from ehrjax.data import pipeline, token_dataset, token_files
from ehrjax.training.yaml_configs import Translated

MADE_OF = "made_of.json"


def tokens(given: Translated, workdir: Path) -> Path:
    """Makes DIR/data/tokens of the pipeline's .pkl files, unless it is there.

    Raises:
      InputError: a file is damaged, the vocabulary has another size than the config says, or DIR/data was made of other
        files or settings.
    """
    count = len(token_files.read_vocabulary(given.vocabulary).strings)
    if count != given.vocabulary_size:
        raise InputError(
            f"model.vocab_size is {given.vocabulary_size}, but {given.vocabulary} has {count} rows; correct the config."
        )
    folder = workdir / "data"
    mark = _fingerprint(given)
    if (folder / "tokens").exists():
        if files.read_json(folder / MADE_OF, what="data of a YAML run").get("fingerprint") != mark:
            raise InputError(
                f"{folder} was made of other files or other settings of data; remove it or name another --workdir."
            )
    else:
        together = folder / "files"
        together.mkdir(parents=True, exist_ok=True)
        linked = [("train", given.train), ("val", given.tuning)]
        for name, path in linked + ([("notes", given.notes.folder)] if given.notes else []):
            link = together / name
            link.unlink(missing_ok=True)
            link.symlink_to(path.resolve(), target_is_directory=True)
        settings = token_files.Settings(vocab=str(given.vocabulary.resolve()), static_tokens=given.static_tokens)
        try:
            files.write_json(folder / MADE_OF, {"fingerprint": mark})
            token_files.read(together, folder / "tokens", settings)
        finally:
            shutil.rmtree(together)
    return folder / "tokens"


def _fingerprint(given: Translated) -> str:
    """Of the settings that tokens hang on, and of their files by name, size and time of change."""
    folders = [given.train, given.tuning] + ([given.notes.folder] if given.notes else [])
    paths = [given.vocabulary, *(path for folder in folders for path in sorted(folder.rglob("*.pkl")))]
    stats = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    return configs.fingerprint([[str(folder.resolve()) for folder in folders], stats, given.static_tokens])


def by_epoch(config: dict[str, Any], path: Path, notes: Path | None) -> dict[str, Any]:
    """The config with its tokens and perhaps its notes, evaluated and logged often enough for a loss an epoch."""
    config = {**config, "data": {**config["data"], "path": str(path), "notes": str(notes or "")}}
    ends = _epoch_ends(config)
    return {
        **config,
        "eval_every": 0,
        "eval_at": ends,
        "checkpoint_every": ends[0],
        "log_every": max(1, ends[0] // 10),
    }


def _epoch_ends(config: dict[str, Any]) -> list[int]:
    """The last step of each epoch."""
    settings = pipeline.Settings(**config["data"])
    train = pipeline.open_split(token_dataset.open_tokens(settings.path), "train", settings)
    plans = (pipeline.plan_epoch(train, settings, seed=config["seed"], epoch=e) for e in range(config["num_epochs"]))
    return np.cumsum([plan.num_batches(config["batch_size"]) for plan in plans]).tolist()


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
    ends = [0, *config["eval_at"]]
    with files.written_file(workdir / "loss.log") as temporary:
        rows = ["epoch,train_loss,val_loss"]
        for epoch, (before, last) in enumerate(zip(ends, ends[1:])):
            span = range(before + 1, last + 1)
            losses = [line["loss"] for line in lines if line["step"] in span and "loss" in line]
            tuned = [line["tuning_loss"] for line in lines if line["step"] in span and "tuning_loss" in line]
            if losses:
                rows.append(
                    f"{epoch + 1},{np.mean(losses):.6f},{tuned[-1]:.6f}"
                    if tuned
                    else f"{epoch + 1},{np.mean(losses):.6f},"
                )
        Path(temporary).write_text("\n".join(rows) + "\n", encoding="utf-8")
