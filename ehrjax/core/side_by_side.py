"""Commands side by side, each on its own share of the cores: a small model keeps one core busy and no more."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ehrjax.core import files
from ehrjax.core.errors import EXIT_BAD_INPUT, InputError, RunError

# Libraries that would take all cores, whatever their share.
_THREADS = ("OMP_NUM_THREADS", "POLARS_MAX_THREADS")
_mine = threading.local()


def at_once(workers: int, jobs: Iterable[Callable[[], Any]], *, shared: bool = False) -> list[Any]:
    """Does jobs side by side, in their order.

    Args:
      workers: how many at a time, at most as many as there are cores.
      jobs: what to do; commands are started by `verb`.
      shared: as many workers as are asked for, those beyond the cores taking turns with the others. For a few long jobs
        that the number of cores does not divide: none then waits for the last one.

    Returns:
      What each job returned. Once one has failed no further one is begun, and its exception is raised when those under
      way have ended.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    workers = max(1, workers if shared else min(workers, len(cores) or 1))
    shares: queue.Queue[list[int]] = queue.Queue()
    for worker in range(workers):
        shares.put(cores[worker::workers] or cores)

    failed = threading.Event()

    def unless_failed(job: Callable[[], Any]) -> Any:
        if failed.is_set():
            return None
        try:
            return job()
        except BaseException:
            failed.set()
            raise

    def take() -> None:
        _mine.cores = shares.get()
        if _mine.cores:
            os.sched_setaffinity(0, _mine.cores)  # of this thread, and of what it starts

    with ThreadPoolExecutor(workers, initializer=take) as pool:
        return [done.result() for done in [pool.submit(unless_failed, job) for job in jobs]]


def verb(*arguments: object, environment: Mapping[str, str] | None = None) -> None:
    """Runs `python -m` with some arguments on the share of the job that calls it, and says how long it took.

    Args:
      arguments: a module and its arguments.
      environment: variables beside those of this process.

    Raises:
      InputError: the command refused what it was given (exit code 2); what was wrong it has printed itself.
      RunError: it failed in another way.
    """
    begun, cores = time.monotonic(), getattr(_mine, "cores", [])
    threads = dict.fromkeys(_THREADS, str(len(cores))) if cores else {}
    command = [sys.executable, "-m", *map(str, arguments)]
    code = subprocess.run(command, env={**os.environ, **(environment or {}), **threads}).returncode
    called = f"`python -m {arguments[0]}`"
    if code == EXIT_BAD_INPUT:
        raise InputError(f"{called} refused what it was given, as it says above; the same command goes on from here.")
    if code:
        raise RunError(f"{called} ended with exit code {code}; the same command goes on from what is finished.")
    told = [part for part in map(str, arguments) if part.startswith(("--workdir", "--output"))]
    print(f"took {(time.monotonic() - begun) / 60:.1f} min: {arguments[0]} {' '.join(told[-1:])}", flush=True)


def claim(work: Path, settings: Mapping[str, Any]) -> None:
    """Writes the settings that all in a folder is made by; on a later start sees that they are the same.

    Args:
      work: the folder, made where it is not.
      settings: name -> a number or text.

    Raises:
      InputError: what is there was made by others.
    """
    work.mkdir(parents=True, exist_ok=True)
    path = work / "settings.json"
    if not path.exists():
        files.write_json(path, settings)
    old = files.read_json(path, what="folder of an experiment")
    if other := sorted(name for name in settings if old.get(name) != settings[name]):
        told = ", ".join(f"{name} {old.get(name)}" for name in other)
        raise InputError(f"{work} holds what was made with {told}; go back to that, or name another folder.")


def trained(folder: Path, *arguments: object, environment: Mapping[str, str] | None = None) -> Path:
    """The run of `ehrjax.train` with some arguments, at its end; one that is there is taken as it is.

    Args:
      folder: of the run.
      arguments: all but the folder.
      environment: variables beside those of this process.

    Raises:
      InputError, RunError: the command failed (`verb`).
      InterruptedError: it was told to stop before its end (it has saved what it had, and goes on from there).
    """
    if not (folder / "final.json").exists():
        verb("ehrjax.train", *arguments, f"--workdir={folder}", environment=environment)
        if not (folder / "final.json").exists():
            raise InterruptedError(f"{folder} was stopped before its end; start again to go on from there")
    return folder
