"""Folders elsewhere (s3://, gs://, anything fsspec knows): brought here before work, sent there after it.

Work is always done on local files, which can be memory-mapped and renamed; a remote folder is a copy of a local one.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ehrjax.core.errors import InputError

# Files that say that a folder is complete are sent last.
LAST = ("dataset.json", "task.json")
EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}


def is_remote(path: str | Path | None) -> bool:
    """Whether a path names a place that is not the local file system."""
    return path is not None and "://" in str(path) and not str(path).startswith("file://")


@contextlib.contextmanager
def local_input(path: str | Path | None) -> Iterator[Path | None]:
    """Yields a local path with the content of `path`: itself, or a copy of the remote file or folder.

    The copy needs as much room in the temporary folder (TMPDIR) as the input has, and is removed afterwards.

    Raises:
      InputError: the remote place does not exist or cannot be reached, or its fsspec package is not installed.
    """
    if not is_remote(path):
        yield None if path is None else Path(path)
        return
    with tempfile.TemporaryDirectory(prefix="ehrjax-") as folder:
        system, root = _open(str(path))
        with _explained(str(path), "read"):
            found = system.find(root)
            if not found:
                raise InputError(f"{path} does not exist or is empty.")
            target = Path(folder) / root.rstrip("/").rsplit("/", 1)[-1]
            for name in found:
                rest = name.removeprefix(root.rstrip("/")).lstrip("/")
                here = target / rest if rest else target
                here.parent.mkdir(parents=True, exist_ok=True)
                system.get_file(name, str(here))
        yield target


@contextlib.contextmanager
def local_output(path: str | Path) -> Iterator[Path]:
    """Yields a local path to write; a remote one gets what was written there, the file that marks it complete last.

    Raises:
      InputError: the remote place holds something already, cannot be written, or its fsspec package is missing.
    """
    if not is_remote(path):
        yield Path(path)
        return
    system, root = _open(str(path))
    root = root.rstrip("/")
    with _explained(str(path), "written"):
        if system.find(root):
            raise InputError(f"{path} already exists; remove it or name another place.")
    with tempfile.TemporaryDirectory(prefix="ehrjax-") as folder:
        target = Path(folder) / root.rsplit("/", 1)[-1]
        yield target
        files = sorted(file for file in target.rglob("*") if file.is_file()) if target.is_dir() else [target]
        with _explained(str(path), "written"):
            for file in sorted(files, key=lambda file: file.name in LAST):
                rest = "" if file == target else f"/{file.relative_to(target).as_posix()}"
                system.put_file(str(file), f"{root}{rest}")


def _open(path: str) -> tuple[Any, str]:
    """The file system and the path in it."""
    import fsspec

    protocol = path.split("://", 1)[0]
    try:
        return fsspec.core.url_to_fs(path)
    except ImportError as error:
        extra = EXTRAS.get(protocol)
        hint = f"pip install 'ehrjax[{extra}]'" if extra else "install its fsspec package"
        raise InputError(f"{path} needs a package that is not installed; {hint}.") from error
    except ValueError as error:
        raise InputError(f"{path} names no place that can be read: {str(error).splitlines()[0]}.") from error


@contextlib.contextmanager
def _explained(path: str, what: str) -> Iterator[None]:
    """Turns the many errors of remote systems into one sentence."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{path} cannot be {what} ({reason}); check the address, the rights and the network."
        ) from error
