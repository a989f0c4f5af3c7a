"""Fetching openly licensed sources, file by file, each checked against its published SHA-256."""

from __future__ import annotations

import hashlib
import http.client
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from ehrjax.core import files
from ehrjax.core.errors import InputError

SUMS = "SHA256SUMS.txt"
TIMEOUT_SECONDS = 60
_PIECE = 1 << 16

# progress(file, files done, files in all)
Progress = Callable[[str, int, int], None]
Opener = Callable[..., BinaryIO]


@dataclass(frozen=True)
class Source:
    """Where a source is published.

    Attributes:
      url: the folder of its files; it holds SHA256SUMS.txt with a line `<sha256> <path>` for each.
      sums_sha256: the SHA-256 of that list, so that the list itself can be trusted.
      page: the page to download it from by hand.
      licence: its licence.
    """

    url: str
    sums_sha256: str
    page: str
    licence: str


SOURCES = {
    # Johnson et al., MIMIC-IV Clinical Database Demo 2.2, https://doi.org/10.13026/dp1f-ex47.
    "mimic-iv-demo": Source(
        url="https://physionet.org/files/mimic-iv-demo/2.2/",
        sums_sha256="19dfd55fac45035ba8e9f4c7e59180ee5184e877504f098e517a434d2646366a",
        page="https://physionet.org/content/mimic-iv-demo/2.2/",
        licence="Open Database License 1.0",
    ),
}


def download(
    source: str,
    output: str | Path,
    *,
    sources: dict[str, Source] = SOURCES,
    opener: Opener = urllib.request.urlopen,
    progress: Progress | None = None,
) -> dict[str, object]:
    """Fetches a source into a folder; files already there with the right checksum are kept, so it resumes.

    Args:
      source: a name in `sources`.
      output: the folder to fill; each file appears only when it is complete and verified.
      sources: the known sources (another mirror is another `Source`).
      opener: opens a URL like `urllib.request.urlopen(url, timeout=seconds)`.
      progress: called as progress(file, files done, files in all).

    Returns:
      The source, its licence, and the numbers of files fetched and already there.

    Raises:
      InputError: the source is unknown, the network or a file cannot be reached, or a checksum differs.
      RunError: the disk is full.
    """
    if source not in sources:
        raise InputError(f"There is no source {source!r} to download; choose from {', '.join(sorted(sources))}.")
    known, output = sources[source], Path(output)
    if output.exists() and not output.is_dir():
        raise InputError(f"{output} is not a folder; name another one for the download.")
    sums = _fetch_sums(source, known, opener)
    listed = _listed(sums, known)
    fetched = 0
    for done, (name, expected) in enumerate(listed.items()):
        if progress:
            progress(name, done, len(listed))
        target = output / name
        if target.is_file() and files.sha256_file(target) == expected:
            continue
        _fetch_file(source, known, name, target, expected, opener)
        fetched += 1
    with files.written_file(output / SUMS) as temporary:
        temporary.write_bytes(sums)
    if progress:
        progress(SUMS, len(listed), len(listed))
    return {"source": source, "licence": known.licence, "fetched": fetched, "kept": len(listed) - fetched}


def _fetch_sums(source: str, known: Source, opener: Opener) -> bytes:
    url = known.url + SUMS
    try:
        with opener(url, timeout=TIMEOUT_SECONDS) as stream:
            sums = stream.read()
    except (OSError, http.client.HTTPException) as error:
        raise _unreachable(source, known, url, error) from error
    if hashlib.sha256(sums).hexdigest() != known.sums_sha256:
        raise InputError(
            f"{url} is not the published list of checksums, something on the way here changed it; "
            f"download {source} from {known.page} by hand."
        )
    return sums


def _listed(sums: bytes, known: Source) -> dict[str, str]:
    """Path -> SHA-256, in the order of the list."""
    listed = {}
    for line in sums.decode("utf-8").splitlines():
        if not line.strip():
            continue
        digest, name = line.split(maxsplit=1)
        path = PurePosixPath(name.removeprefix("*"))
        if path.is_absolute() or ".." in path.parts:
            raise InputError(f"{known.url}{SUMS} lists {name!r}, which is outside its folder; do not use that source.")
        listed[str(path)] = digest
    return listed


def _fetch_file(source: str, known: Source, name: str, target: Path, expected: str, opener: Opener) -> None:
    url, digest = known.url + name, hashlib.sha256()
    with files.written_file(target) as temporary:
        with open(temporary, "wb") as out:
            try:
                stream = opener(url, timeout=TIMEOUT_SECONDS)
            except (OSError, http.client.HTTPException) as error:
                raise _unreachable(source, known, url, error) from error
            with stream:
                while piece := _read(stream, source, known, url):
                    digest.update(piece)
                    # A full disk is not a network error: written_file tells of it.
                    out.write(piece)
        if digest.hexdigest() != expected:
            raise InputError(
                f"{url} does not have its published checksum, so it was not kept; run the same command again "
                f"(verified files are kept), or download it from {known.page} by hand."
            )


def _read(stream: BinaryIO, source: str, known: Source, url: str) -> bytes:
    try:
        return stream.read(_PIECE)
    except (OSError, http.client.HTTPException) as error:
        raise _unreachable(source, known, url, error) from error


def _unreachable(source: str, known: Source, url: str, error: Exception) -> InputError:
    if isinstance(error, urllib.error.HTTPError):
        reason = f"the server answered {error.code}"
    else:
        reason = str(getattr(error, "reason", None) or error or type(error).__name__)
    return InputError(
        f"{url} cannot be fetched ({reason}); run the same command again where there is a network (verified "
        f"files are kept), or download {source} from {known.page} on another machine and use that folder."
    )
