"""Metrics as they arise: one JSON object a line in `metrics.jsonl`, TensorBoard, and W&B by option."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ehrjax.core import files
from ehrjax.core.errors import InputError


class Writer:
    """Writes metric lines; on resume it first cuts `metrics.jsonl` back to the restored step.

    Args:
      workdir: the run's folder.
      step: the step that the run continues from; later lines, and a half-written last one, are removed.
      tensorboard: also write DIR/tensorboard.
      wandb: the `wandb` section of the config (project, name, mode), or None.
      config: what W&B records as the run's config.
      active: False makes every call do nothing (processes other than the first).
    """

    def __init__(
        self,
        workdir: Path,
        *,
        step: int,
        tensorboard: bool = True,
        wandb: Mapping[str, Any] | None = None,
        config: Mapping[str, Any] | None = None,
        active: bool = True,
    ) -> None:
        self._active = active
        self._tensorboard = self._wandb = None
        if not active:
            return
        path = workdir / "metrics.jsonl"
        kept = [line for line in read_metrics(path) if line["step"] <= step] if path.exists() else []
        with files.written_file(path) as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        self._stream = open(path, "a", encoding="utf-8")
        if tensorboard:
            with _without_torch():
                from tensorboardX import SummaryWriter

            self._tensorboard = SummaryWriter(str(workdir / "tensorboard"), purge_step=step + 1)
        if wandb and wandb.get("project"):
            try:
                import wandb as client
            except ImportError as error:
                raise InputError(
                    "config.wandb.project is set but wandb is not installed; pip install 'ehrjax[wandb]'."
                ) from error
            self._wandb = client.init(
                project=wandb["project"],
                name=wandb.get("name") or workdir.name,
                id=f"ehrjax-{files.stable_hash(workdir.absolute()):016x}",
                resume="allow",
                mode=wandb.get("mode", "online"),
                dir=str(workdir),
                config=dict(config or {}),
            )

    def write(self, step: int, **metrics: float | int | str) -> None:
        """Appends one line, flushed to the file at once."""
        if not self._active:
            return
        self._stream.write(json.dumps({"step": step, **metrics}) + "\n")
        self._stream.flush()
        numbers = {key: value for key, value in metrics.items() if isinstance(value, (int, float))}
        if self._tensorboard is not None:
            for key, value in numbers.items():
                self._tensorboard.add_scalar(key, value, step)
        if self._wandb is not None:
            self._wandb.log(numbers, step=step)

    def sync(self) -> None:
        """Makes sure that the lines written so far survive a crash of the machine."""
        if self._active:
            os.fsync(self._stream.fileno())

    def close(self) -> None:
        """Closes every sink."""
        if not self._active:
            return
        self._stream.close()
        if self._tensorboard is not None:
            self._tensorboard.close()
        if self._wandb is not None:
            self._wandb.finish()


@contextlib.contextmanager
def _without_torch() -> Iterator[None]:
    """tensorboardX imports torch where there is one, which takes seconds, for tensors that it is never given here."""
    if "torch" in sys.modules:
        yield
        return
    sys.modules["torch"] = None  # type: ignore[assignment]  # importing it fails, as where it is not installed
    try:
        yield
    finally:
        del sys.modules["torch"]


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl; a half-written last line (a killed run) is left out."""
    lines = []
    with open(path, encoding="utf-8") as stream:
        for line in stream:
            try:
                lines.append(json.loads(line))
            except ValueError:
                break
    return lines
