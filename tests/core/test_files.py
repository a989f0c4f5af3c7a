"""Nothing half-written is ever seen."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from ehrjax.core import files
from ehrjax.core.errors import InputError


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), files.written_folder(tmp_path / "out", what="thing") as folder:
        (folder / "part").write_text("half")
        raise RuntimeError
    with pytest.raises(RuntimeError), files.written_file(tmp_path / "file") as path:
        path.write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    with pytest.raises(RuntimeError), files.written_file(tmp_path / "file") as path:
        path.write_text("new")
        raise RuntimeError
    assert (tmp_path / "file").read_text() == "old"


def test_outputs_never_overwrite(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    (tmp_path / "file").touch()
    for name in ("full", "file"):
        with pytest.raises(InputError, match="already exists"), files.written_folder(tmp_path / name, what="thing"):
            pass
    with pytest.raises(InputError, match="Cannot write"), files.written_folder(tmp_path / "file" / "x", what="thing"):
        pass
    (tmp_path / "empty").mkdir()
    with files.written_folder(tmp_path / "empty", what="thing") as folder:
        (folder / "x").touch()
    assert (tmp_path / "empty" / "x").exists()


def test_a_full_disk_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is full; free space"), files.written_file(tmp_path / "file"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_stable_hash_is_the_same_everywhere() -> None:
    assert files.stable_hash(1, "a") == 17830588005661422861
    assert files.stable_hash(1, "a") != files.stable_hash("1a")
