"""Writing so that nothing half-written is ever seen: a temporary name beside the target, then a rename."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from ehrjax.core.errors import InputError

try:
    import fcntl
except ImportError:  # Windows has no advisory locks of this kind
    fcntl = None  # type: ignore[assignment]

# What the system says when a file can grow no further.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _full(error: OSError, path: Path) -> InputError | None:
    if error.errno in FULL:
        return InputError(f"The disk holding {path} is full; free space there and run the same command again.")
    return None


def _impossible(error: OSError, path: Path, what: str) -> InputError:
    # mkdir(exist_ok=True) says that a file stands where a folder is needed by saying that it exists.
    why = "a file stands in its way" if isinstance(error, FileExistsError) else error.strerror
    return InputError(f"Cannot write the {what} {path} ({why}); name another place.")


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")


def check_place(path: Path) -> None:
    """Makes the folder of a file and sees that the file can be made there, before what it will hold is computed.

    Raises:
      InputError: `path` is a folder or cannot be made, or the disk is full.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder; name a file to write.")
    temporary = _beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
        temporary.unlink()
    except OSError as error:
        raise (_full(error, path) or _impossible(error, path, "file")) from error


@contextlib.contextmanager
def written_file(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; on success it is renamed to `path`, on failure removed.

    Raises:
      InputError: `path` is a folder or cannot be made, or the disk is full.
    """
    path = Path(path)
    check_place(path)
    temporary = _beside(path)
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise (_full(error, path) or error) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def written_folder(path: str | Path, *, what: str) -> Iterator[Path]:
    """Yields a work folder beside `path`; on success it becomes `path`, on failure it is removed.

    What a killed process left is removed by the next one.

    Args:
      path: the folder to write; it may exist only if it is empty.
      what: what is written, for the messages ("MEDS dataset").

    Raises:
      InputError: `path` exists and is not an empty folder, another process writes it, or the disk is full.
    """
    with _work_folder(Path(path), what, uuid.uuid4().hex) as (work, _):
        yield work


@contextlib.contextmanager
def resumable_folder(path: str | Path, *, what: str, fingerprint: str) -> Iterator[Path]:
    """Yields a work folder beside `path` that outlives a killed process; on success it becomes `path`.

    What an interrupted run left is found again if its fingerprint is the same, else it is removed first. A run that
    fails with an error leaves nothing, except where the disk was full.

    Args:
      path: the folder to write; it may exist only if it is empty.
      what: what is written, for the messages ("token dataset").
      fingerprint: of the inputs and settings that the content depends on.

    Raises:
      InputError: `path` exists and is not an empty folder or cannot be made, another process writes it, or the disk is
        full.
    """
    with _work_folder(Path(path), what, fingerprint) as (work, keep):
        try:
            yield work
        except OSError as error:
            keep.append(error.errno in FULL)
            raise
        except KeyboardInterrupt:
            keep.append(True)
            raise


@contextlib.contextmanager
def _work_folder(path: Path, what: str, fingerprint: str) -> Iterator[tuple[Path, list[bool]]]:
    """Yields `.NAME.partial`, locked, and a list; a True in that list keeps the folder where it did not become `path`.

    A folder with another fingerprint is emptied first.
    """
    refuse_existing(path, what=what)
    work = path.with_name(f".{path.name}.partial")
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise (_full(error, path) or _impossible(error, path, what)) from error
    # Another process's folder stays.
    keep = [True]
    try:
        with locked(work, what=f"process that writes the {what}"):
            mark = work / ".fingerprint"
            if not mark.is_file() or mark.read_text() != fingerprint:
                for old in work.iterdir():
                    if old.name != ".lock":
                        shutil.rmtree(old) if old.is_dir() else old.unlink()
                mark.write_text(fingerprint)
            keep.clear()
            yield work, keep
            # Another process may have finished since.
            refuse_existing(path, what=what)
            mark.unlink()
            (work / ".lock").unlink()
            if path.exists():
                path.rmdir()
            os.replace(work, path)
    except OSError as error:
        raise (_full(error, path) or error) from error
    finally:
        if not any(keep):
            shutil.rmtree(work, ignore_errors=True)


@contextlib.contextmanager
def locked(folder: str | Path, *, what: str) -> Iterator[None]:
    """Holds a folder for this process alone; the system lets go of it when the process ends, however it ends.

    Args:
      folder: an existing folder; a file `.lock` is made in it and stays.
      what: what works there, for the message ("run").

    Raises:
      InputError: another process holds it.
    """
    with open(Path(folder) / ".lock", "w") as stream:
        if fcntl is not None:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise InputError(
                    f"Another {what} is working in {folder}; wait for it or name another folder."
                ) from error
        yield


def refuse_existing(path: str | Path, *, what: str) -> None:
    """Raises InputError where `path` exists and is not an empty folder, or has no name: outputs never overwrite."""
    path = Path(path)
    if not path.name or path.name == "..":
        raise InputError(f"{str(path)!r} does not say what the folder for the {what} is to be called; name one.")
    if path.is_dir() and not any(path.iterdir()):
        return
    if path.exists() or path.is_symlink():
        raise InputError(f"{path} already exists; remove it or name another folder for the {what}.")


def write_json(path: str | Path, value: object) -> None:
    """Writes `value` as indented JSON with sorted keys, atomically; NaN, which JSON lacks, is an error."""
    text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n"
    with written_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_json(path: str | Path, *, what: str) -> dict:
    """Reads a JSON object; InputError names the file where it is missing or broken."""
    path = Path(path)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing; {path.parent} is not a {what}.") from error
    except (ValueError, OSError) as error:
        raise InputError(f"{path} cannot be read as JSON ({error}); the {what} is damaged.") from error
    if not isinstance(value, dict):
        raise InputError(f"{path} does not hold a JSON object; the {what} is damaged.")
    return value


def sha256_file(path: str | Path) -> str:
    """The SHA-256 of a file's bytes, in hex, read in pieces of one MiB."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while piece := stream.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def sha256_tree(path: str | Path) -> str:
    """The SHA-256 of a file, or of the names and contents of all files in a folder, hidden ones left out."""
    path = Path(path)
    if not path.is_dir():
        return sha256_file(path)
    digest = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith(".")):
        digest.update(str(file.relative_to(path)).encode())
        digest.update(sha256_file(file).encode())
    return digest.hexdigest()


def stable_hash(*parts: object) -> int:
    """A 64-bit hash of the parts' text that is the same in every process and on every machine."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest(), "little")
