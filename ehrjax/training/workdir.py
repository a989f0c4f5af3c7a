"""The run's folder: what is written there before the first step, and what a second start must agree with."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

from ehrjax.core import config as configs
from ehrjax.core import files
from ehrjax.core.errors import InputError
from ehrjax.data.token_dataset import TokenDataset

PACKAGES = ("ehrjax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "polars", "pyarrow")


def versions() -> dict[str, str]:
    """Versions of Python, the machine and the packages that decide a result."""
    result = {"python": platform.python_version(), "machine": platform.machine(), "system": platform.system()}
    for package in PACKAGES:
        try:
            result[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return result


def git_hash() -> str | None:
    """The commit that ehrjax was run from, with '+' if files differ from it; None outside a checkout."""
    root = Path(__file__).resolve().parents[2]
    try:
        commit = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
        changed = subprocess.run(
            ["git", "-C", str(root), "status", "--porcelain", "-uno"], capture_output=True, text=True, timeout=10
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ("+" if changed else "")


def claim(workdir: Path, config: dict[str, Any], dataset: TokenDataset) -> None:
    """Writes config.json and vocab.csv on the first start; on a later one checks that they still hold.

    Raises:
      InputError: the config differs in more than length, cadences and mesh, or the data or the vocabulary
        is not the one that the run was started with, or the folder holds something else.
    """
    path = workdir / "config.json"
    data = {"fingerprint": dataset.fingerprint, "vocabulary_fingerprint": dataset.vocabulary.fingerprint}
    if path.exists():
        old = files.read_json(path, what="run's folder")
        changed = configs.changed_keys(old["config"], config)
        if changed:
            raise InputError(
                f"{workdir} holds a run with another config ({', '.join(changed)} differ); "
                "name another --workdir or go back to the old values."
            )
        if old["dataset"]["vocabulary_fingerprint"] != data["vocabulary_fingerprint"]:
            raise InputError(
                f"The vocabulary of {dataset.folder} is not the one that {workdir} was trained with; "
                "name the old data or another --workdir."
            )
        if old["dataset"]["fingerprint"] != data["fingerprint"]:
            raise InputError(
                f"The data in {dataset.folder} is not what {workdir} was trained on; name another --workdir."
            )
    dataset.vocabulary.write(workdir / "vocab.csv")
    files.write_json(
        path,
        {
            "config": config,
            "dataset": {**data, "source": dataset.info["source"], "splits": dataset.info["splits"]},
            "versions": versions(),
            "git": git_hash(),
        },
    )
