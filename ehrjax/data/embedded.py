"""The embedded data: the synthetic hospital and its tokens, made on the spot where a run names no data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ehrjax.data import prepare_tokens
from ehrjax.ingest import synthetic
from ehrjax.ingest.labels import making
from ehrjax.ingest.labels import settings as tasks
from ehrjax.vocab import recipe


def ensure(folder: Path, settings: Mapping[str, Any], *, labels: str = "") -> str:
    """Makes `folder/events` and `folder/tokens` unless they are there; each appears only when complete.

    Args:
      folder: normally WORKDIR/data.
      settings: the config's `embedded` section: patients, seed, recipe, task.
      labels: also make labels: of the hospital's own tasks, whose true probabilities are known, or of any other task,
        with the settings `task`; several with commas.

    Returns:
      The label folders with commas between, where labels are asked for; else nothing.
    """
    names = [name for name in labels.split(",") if name]
    own = any(name in synthetic.TASKS for name in names)
    if not (folder / "tokens").exists():
        if not (folder / "events").exists():
            print(f"simulating {settings['patients']:,} patients of the synthetic hospital", flush=True)
            synthetic.write(folder / "events", patients=settings["patients"], seed=settings["seed"], labels=own)
        print("preparing tokens", flush=True)
        prepare_tokens.prepare(folder / "events", folder / "tokens", recipe.from_config(settings["recipe"]))
    return ",".join(str(_labels(folder, name, settings)) for name in names)


def _labels(folder: Path, name: str, settings: Mapping[str, Any]) -> Path:
    """The folder of a task's labels, made unless it is there."""
    if name in synthetic.TASKS:
        return folder / "events" / "labels" / name
    chosen = tasks.choose(name, **settings["task"])
    if not (folder / "labels" / chosen.name).exists():
        making.make(folder / "events", folder / "labels", chosen)
    return folder / "labels" / chosen.name
