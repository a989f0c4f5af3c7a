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
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("full", "file", "link"):
        with pytest.raises(InputError, match="already exists"), files.written_folder(tmp_path / name, what="thing"):
            pass
    for name in ("", ".", "..", "/"):
        with pytest.raises(InputError, match="to be called"), files.written_folder(name, what="thing"):
            pass
    with pytest.raises(InputError, match="Cannot write"), files.written_folder(tmp_path / "file" / "x", what="thing"):
        pass
    (tmp_path / "empty").mkdir()
    with files.written_folder(tmp_path / "empty", what="thing") as folder:
        (folder / "x").touch()
    assert (tmp_path / "empty" / "x").exists()


def test_a_path_that_cannot_be_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "y.parquet", tmp_path / "file" / "a" / "y.parquet", Path("/proc/x/y.parquet")):
        with pytest.raises(InputError, match=r"^Cannot write the file .*; name another place\.$"):
            with files.written_file(path):
                pytest.fail("what cannot be written must not be computed")
    with pytest.raises(InputError, match="is a folder; name a file"), files.written_file(tmp_path / "folder"):
        pass
    for path in (tmp_path / "file" / "a" / "b", Path("/proc/foo/bar")):
        with pytest.raises(InputError, match=r"^Cannot write the thing .*; name another place\.$"):
            with files.written_folder(path, what="thing"):
                pass
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder"]


def test_two_at_once_are_refused_and_the_first_is_not_disturbed(tmp_path: Path) -> None:
    with files.written_folder(tmp_path / "out", what="thing") as folder:
        (folder / "x").write_text("first")
        for second in (
            files.written_folder(tmp_path / "out", what="thing"),
            files.resumable_folder(tmp_path / "out", what="thing", fingerprint="f"),
        ):
            with pytest.raises(InputError, match="Another process that writes the thing"), second:
                pass
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "x"]


def test_an_output_that_came_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="already exists"), files.written_folder(tmp_path / "out", what="thing"):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "theirs").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "theirs"]


def test_what_a_killed_process_left_goes_or_stays(tmp_path: Path) -> None:
    left = tmp_path / ".out.partial"

    def leave(fingerprint: str) -> None:
        left.mkdir()
        (left / ".fingerprint").write_text(fingerprint)
        (left / "half").touch()

    leave("f")
    with files.written_folder(tmp_path / "out", what="thing") as folder:
        assert not (folder / "half").exists()
    (tmp_path / "out").rmdir()
    for fingerprint, there in (("f", True), ("g", False)):
        leave("f")
        with pytest.raises(InputError, match="is full"), files.resumable_folder(
            tmp_path / "out", what="thing", fingerprint=fingerprint
        ) as folder:  # fmt: skip
            assert (folder / "half").exists() is there
            raise OSError(errno.ENOSPC, "No space left on device")
        assert left.exists(), "what was made before the disk was full is kept"
        with pytest.raises(RuntimeError), files.resumable_folder(
            tmp_path / "out", what="thing", fingerprint=fingerprint
        ):  # fmt: skip
            raise RuntimeError
        assert not left.exists()


def test_a_full_disk_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is full; free space"), files.written_file(tmp_path / "file"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_stable_hash_is_the_same_everywhere() -> None:
    assert files.stable_hash(1, "a") == 17830588005661422861
    assert files.stable_hash(1, "a") != files.stable_hash("1a")
