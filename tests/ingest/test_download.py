"""Downloading: every file verified, complete or absent, resumed, and one plain sentence without a network."""

from __future__ import annotations

import functools
import hashlib
import http.server
import socket
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ehrjax.core.errors import InputError
from ehrjax.ingest.download import SOURCES, SUMS, Source, download

# Machines with a proxy must not send localhost through it.
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({})).open
FILES = {
    "README.txt": b"a demo\n",
    "hosp/patients.csv.gz": b"\x1f\x8b" * 100_000,
    "icu/icustays.csv.gz": b"stays",
}


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder quietly and remembers what was asked for."""

    def do_GET(self) -> None:
        self.server.asked.append(self.path.removeprefix("/"))
        super().do_GET()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, Source, list[str]]]:
    """(folder, source, paths asked for) of a local server with a tiny published tree."""
    root = tmp_path / "published"
    sums = ""
    for name, data in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
        sums += f"{hashlib.sha256(data).hexdigest()} {name}\n"
    (root / SUMS).write_text(sums)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(root)))
    server.asked = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/"
    yield (
        root,
        Source(url, hashlib.sha256(sums.encode()).hexdigest(), "https://example.org/demo", "ODbL"),
        server.asked,
    )
    server.shutdown()
    server.server_close()


def fetch(source: Source, output: Path, **options: object) -> dict[str, object]:
    return download("demo", output, sources={"demo": source}, opener=OPENER, **options)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def check_sentence(error: pytest.ExceptionInfo) -> str:
    message = str(error.value)
    assert "\n" not in message and message.endswith(".") and ". " not in message
    return message


def test_fetches_every_listed_file_and_then_nothing_twice(served, tmp_path):
    root, source, asked = served
    seen = []
    result = fetch(source, tmp_path / "out", progress=lambda *step: seen.append(step))
    assert result == {"source": "demo", "licence": "ODbL", "fetched": 3, "kept": 0}
    assert contents(tmp_path / "out") == contents(root)
    assert seen == [*((name, i, 3) for i, name in enumerate(FILES)), (SUMS, 3, 3)]
    asked.clear()
    assert fetch(source, tmp_path / "out")["kept"] == 3
    assert asked == [SUMS]


def test_resumes_with_what_is_missing_or_damaged(served, tmp_path):
    root, source, asked = served
    fetch(source, tmp_path / "out")
    (tmp_path / "out" / "README.txt").unlink()
    (tmp_path / "out" / "icu" / "icustays.csv.gz").write_bytes(b"half")
    asked.clear()
    assert fetch(source, tmp_path / "out")["fetched"] == 2
    assert asked == [SUMS, "README.txt", "icu/icustays.csv.gz"]
    assert contents(tmp_path / "out") == contents(root)


def test_a_corrupted_file_is_refused_and_not_kept(served, tmp_path):
    root, source, _ = served
    (root / "icu" / "icustays.csv.gz").write_bytes(b"stuys")
    with pytest.raises(InputError, match=r"icustays.csv.gz does not have its published checksum") as error:
        fetch(source, tmp_path / "out")
    check_sentence(error)
    assert set(contents(tmp_path / "out")) == {"README.txt", "hosp/patients.csv.gz"}


def test_a_changed_list_of_checksums_is_refused(served, tmp_path):
    root, source, _ = served
    (root / SUMS).write_text((root / SUMS).read_text().replace("README.txt", "readme.txt"))
    with pytest.raises(InputError, match="not the published list of checksums") as error:
        fetch(source, tmp_path / "out")
    check_sentence(error)
    assert not (tmp_path / "out").exists()


def test_a_listed_path_outside_the_folder_is_refused(served, tmp_path):
    root, source, _ = served
    sums = f"{'0' * 64} ../evil.txt\n"
    (root / SUMS).write_text(sums)
    with pytest.raises(InputError, match="outside its folder"):
        fetch(replace(source, sums_sha256=hashlib.sha256(sums.encode()).hexdigest()), tmp_path / "out")


def test_a_file_that_the_server_lacks_is_named(served, tmp_path):
    root, source, _ = served
    (root / "hosp" / "patients.csv.gz").unlink()
    with pytest.raises(
        InputError, match=r"hosp/patients.csv.gz cannot be fetched \(the server answered 404\)"
    ) as error:
        fetch(source, tmp_path / "out")
    check_sentence(error)
    assert set(contents(tmp_path / "out")) == {"README.txt"}


def test_without_a_network_one_sentence_says_what_to_do(tmp_path):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/"
        with pytest.raises(InputError) as error:
            fetch(replace(SOURCES["mimic-iv-demo"], url=url), tmp_path / "out")
    message = check_sentence(error)
    assert "cannot be fetched" in message and "where there is a network" in message
    assert "https://physionet.org/content/mimic-iv-demo/2.2/" in message
    assert not (tmp_path / "out").exists()


def test_a_connection_that_breaks_within_a_file_leaves_no_part_of_it(served, tmp_path):
    _, source, _ = served

    def breaking(url: str, timeout: float):
        stream = OPENER(url, timeout=timeout)
        if url.endswith("patients.csv.gz"):
            read, pieces = stream.read, iter([True])
            stream.read = lambda size: read(size) if next(pieces, False) else _reset()
        return stream

    def _reset() -> bytes:
        raise ConnectionResetError("connection reset")

    with pytest.raises(InputError, match="connection reset") as error:
        download("demo", tmp_path / "out", sources={"demo": source}, opener=breaking)
    check_sentence(error)
    assert set(contents(tmp_path / "out")) == {"README.txt"}


def test_an_unknown_source_and_a_file_as_output_are_refused(tmp_path):
    with pytest.raises(InputError, match="choose from mimic-iv-demo"):
        download("mimic-v", tmp_path / "out")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="not a folder"):
        download("mimic-iv-demo", tmp_path / "file")


def test_the_published_demo_is_pinned():
    demo = SOURCES["mimic-iv-demo"]
    assert demo.url == "https://physionet.org/files/mimic-iv-demo/2.2/"
    assert len(demo.sums_sha256) == 64


@pytest.mark.data
def test_the_list_of_the_demo_at_hand_has_the_pinned_checksum(data_folder):
    data = (data_folder / "mimic-iv-demo" / SUMS).read_bytes()
    assert hashlib.sha256(data).hexdigest() == SOURCES["mimic-iv-demo"].sums_sha256
