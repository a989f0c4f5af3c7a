"""Jobs on shares of the cores, and the commands that they start."""

from __future__ import annotations

import os
import threading

import pytest

from ehrjax.core import side_by_side
from ehrjax.core.errors import InputError, RunError
from ehrjax.core.side_by_side import at_once


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system does not bind processes to cores")
def test_each_job_has_its_share_and_results_keep_their_order(tmp_path, monkeypatch, capfd) -> None:
    (tmp_path / "telling.py").write_text(
        "import os\n"
        "print('cores', len(os.sched_getaffinity(0)), os.environ['OMP_NUM_THREADS'], os.environ['MORE'], flush=True)"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    every = sorted(os.sched_getaffinity(0))

    def job(number):
        side_by_side.verb("telling", f"--output={number}", environment={"MORE": "yes"})
        return number, sorted(os.sched_getaffinity(0))

    workers = min(2, len(every))
    found = at_once(2, [lambda n=n: job(n) for n in range(4)])
    assert [number for number, _ in found] == [0, 1, 2, 3]
    shares = [every[worker::workers] for worker in range(workers)]
    assert all(cores in shares for _, cores in found)
    assert sorted(os.sched_getaffinity(0)) == every
    told = capfd.readouterr().out
    sizes = {f"cores {len(share)} {len(share)} yes" for share in shares}
    assert {line for line in told.splitlines() if line.startswith("cores")} <= sizes and told.count("took 0.") == 4


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system does not bind processes to cores")
def test_jobs_beyond_the_cores_take_turns_where_they_may() -> None:
    cores, meeting = sorted(os.sched_getaffinity(0)), threading.Barrier(1 + len(os.sched_getaffinity(0)), timeout=60)

    def job():
        meeting.wait()  # passes only when all are under way
        return sorted(os.sched_getaffinity(0))

    found = at_once(len(cores) + 1, [job] * (len(cores) + 1), shared=True)
    assert sorted(found) == sorted([*([core] for core in cores), cores])


def test_a_run_that_was_stopped_before_its_end_is_no_result(tmp_path, monkeypatch) -> None:
    asked, run = [], tmp_path / "run"
    monkeypatch.setattr(side_by_side, "verb", lambda *arguments, environment: asked.append(arguments))
    with pytest.raises(InterruptedError, match="stopped before its end"):
        side_by_side.trained(run, "--config=c")
    run.mkdir()
    (run / "final.json").touch()
    assert side_by_side.trained(run, "--config=c") == run
    assert asked == [("ehrjax.train", "--config=c", f"--workdir={run}")]


def test_a_folder_is_of_one_set_of_settings(tmp_path) -> None:
    for _ in range(2):
        side_by_side.claim(tmp_path / "work", {"epochs": 2, "seeds": 1})
    with pytest.raises(InputError, match="made with epochs 2; go back"):
        side_by_side.claim(tmp_path / "work", {"epochs": 3, "seeds": 1})


def test_a_command_that_fails_is_one_sentence_and_nothing_more_is_begun(tmp_path) -> None:
    begun = []
    jobs = [lambda: side_by_side.verb("json.tool", tmp_path / "none"), *[lambda: begun.append(1)] * 5]
    with pytest.raises(InputError, match="json.tool` refused what it was given"):
        at_once(1, jobs)
    assert not begun
    (tmp_path / "no.json").write_text("{")
    with pytest.raises(RunError, match="exit code 1"):
        side_by_side.verb("json.tool", tmp_path / "no.json")
