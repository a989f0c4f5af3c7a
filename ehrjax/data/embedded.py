"""The embedded data: the synthetic hospital and its tokens, made on the spot where a run names no data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ehrjax.data import prepare_tokens
from ehrjax.ingest import synthetic
from ehrjax.vocab import recipe


def ensure(folder: Path, settings: Mapping[str, Any], *, labels: bool = False) -> None:
    """Makes `folder/events` and `folder/tokens` unless they are there; each appears only when complete.

    Args:
      folder: normally WORKDIR/data.
      settings: the config's `embedded` section: patients, seed, recipe.
      labels: also make the hospital's label files, `folder/events/labels`.
    """
    if not (folder / "tokens").exists():
        if not (folder / "events").exists():
            print(f"simulating {settings['patients']:,} patients of the synthetic hospital", flush=True)
            synthetic.write(folder / "events", patients=settings["patients"], seed=settings["seed"], labels=labels)
        print("preparing tokens", flush=True)
        prepare_tokens.prepare(folder / "events", folder / "tokens", recipe.from_config(settings["recipe"]))
