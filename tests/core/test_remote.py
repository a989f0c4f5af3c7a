"""Preparation from and to S3, against a real server of its protocol."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ehrjax.core import remote
from ehrjax.core.errors import InputError
from tests.conftest import refused, run_verb

RECIPE = "--config=configs/tokens/behrt.py"


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Starts an S3 server with the bucket `hospital`; yields the environment that leads there."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = open(tmp_path_factory.mktemp("s3") / "log", "w")
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=log, stderr=log)
    env = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }
    before = dict(os.environ)
    os.environ.update(env)
    try:
        for _ in range(150):
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.1)
        import s3fs

        s3fs.S3FileSystem(skip_instance_cache=True).mkdir("hospital")
        yield env
    finally:
        os.environ.clear()
        os.environ.update(before)
        server.kill()
        server.wait()
        log.close()


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_tokens_of_a_bucket_equal_those_of_a_folder(s3: dict[str, str], toy_meds: Path, tmp_path: Path) -> None:
    with remote.local_output("s3://hospital/meds") as here:
        import shutil

        shutil.copytree(toy_meds, here)
    for source, target in ((toy_meds, tmp_path / "local"), ("s3://hospital/meds", "s3://hospital/tokens")):
        result = run_verb("prepare", "tokens", RECIPE, f"--input={source}", f"--output={target}", env=s3)
        assert result.returncode == 0, result.stderr
        assert f"wrote {target} in" in result.stdout
    with remote.local_input("s3://hospital/tokens") as tokens:
        assert content(tokens) == content(tmp_path / "local")
    assert not tokens.exists(), "the copy is removed"
    # And with the vocabulary of the bucket.
    result = run_verb(
        "prepare",
        "tokens",
        RECIPE,
        f"--input={toy_meds}",
        f"--output={tmp_path / 'again'}",
        "--fitted-from=s3://hospital/tokens",
        env=s3,
    )
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "again" / "vocab.csv").read_bytes() == (tmp_path / "local" / "vocab.csv").read_bytes()


def test_what_is_there_is_not_overwritten(s3: dict[str, str], tmp_path: Path) -> None:
    with remote.local_output("s3://hospital/kept") as here:
        here.mkdir()
        (here / "dataset.json").write_text("mine")
    said = refused("prepare", "synthetic", "--patients=20", "--output=s3://hospital/kept", env=s3)
    assert "s3://hospital/kept already exists" in said
    with remote.local_input("s3://hospital/kept") as there:
        assert content(there) == {"dataset.json": b"mine"}


def test_a_failed_run_sends_nothing(s3: dict[str, str]) -> None:
    said = refused("prepare", "tokens", RECIPE, "--input=s3://hospital/nothing", "--output=s3://hospital/new", env=s3)
    assert "s3://hospital/nothing does not exist or is empty" in said
    with pytest.raises(InputError, match="does not exist or is empty"):
        with remote.local_input("s3://hospital/new"):
            pass


def test_the_file_that_marks_completeness_comes_last(monkeypatch: pytest.MonkeyPatch) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    sent: list[str] = []
    monkeypatch.setattr(MemoryFileSystem, "put_file", lambda self, here, there: sent.append(there))
    with remote.local_output("memory://order") as here:
        for name in ("dataset.json", "data/z.arrow", "vocab.csv", "a"):
            (here / name).parent.mkdir(parents=True, exist_ok=True)
            (here / name).write_text(name)
    assert len(sent) == 4 and sent[-1].endswith("order/dataset.json")


def test_unreachable_places_are_one_sentence(s3: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert "s3://elsewhere/x" in refused(
        "prepare",
        "synthetic",
        "--patients=20",
        "--output=s3://elsewhere/x",
        env={**s3, "AWS_ENDPOINT_URL": "http://127.0.0.1:9"},
    )
    said = refused("prepare", "synthetic", "--patients=20", "--output=nowhere://x/y")
    assert "nowhere://x/y" in said


def test_local_paths_are_left_alone(tmp_path: Path) -> None:
    with remote.local_input(tmp_path) as here, remote.local_output(tmp_path / "new") as there:
        assert here == tmp_path and there == tmp_path / "new" and not there.exists()
    assert not any(remote.is_remote(p) for p in (None, "a/b", tmp_path, "file:///tmp/x"))
