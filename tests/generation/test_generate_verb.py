"""The generate verb: what it writes, that it goes on where it was, and what it refuses."""

from __future__ import annotations

import datetime
import json

import jax
import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from polars.testing import assert_frame_equal

from ehrjax import generate
from ehrjax.core import files
from ehrjax.data import token_dataset
from ehrjax.generation import generating
from ehrjax.hf import made as runs_made
from tests.conftest import behrt_recipe
from tests.generation import made

DAY = 86_400_000_000


@pytest.fixture(scope="module")
def run(toy_tokens, tmp_path_factory):
    opened = made.run(toy_tokens, "gpt2", context=64, max_positions=64)
    folder = tmp_path_factory.mktemp("generate") / "run"
    with files.written_folder(folder, what="run") as temporary:
        runs_made.write(temporary, opened.params, opened.config, opened.vocabulary, was="nothing")
    return folder


@pytest.fixture(scope="module")
def labels(toy_tokens, tmp_path_factory):
    """Two prediction times a subject, with made-up truths, as a bare MEDS label file."""
    rows = []
    split = token_dataset.open_tokens(toy_tokens).split("train")
    for index in range(12):
        subject = split.subject(index)
        times = subject.times[subject.num_static :]
        for place, truth in ((len(times) // 3, True), (len(times) - 1, False)):
            rows.append((subject.subject_id, int(times[place]), truth))
    path = tmp_path_factory.mktemp("labels") / "dx.parquet"
    schema = {"subject_id": pl.Int64, "prediction_time": pl.Int64, "boolean_value": pl.Boolean}
    frame = pl.DataFrame(rows, schema=schema, orient="row").with_columns(
        pl.col("prediction_time").cast(pl.Datetime("us"))
    )
    frame.unique(["subject_id", "prediction_time"], keep="first").write_parquet(path)
    return path


def arguments(run, tokens, output, *more: object) -> list[str]:
    given = ["--workdir", run, "--input", tokens, "--output", output, "--split", "train", "--samples", 6]
    return [str(x) for x in [*given, "--max_tokens", 40, "--groups", 2, "--rows", 4, "--chunk", 8, *more]]


def test_what_is_written(run, toy_tokens, labels, tmp_path, capsys):
    out = tmp_path / "out"
    tasks = ["--task", "dx=DX//1.*", "--task", "lab=LAB//0.*@30d", "--stop", "DX//33"]
    generate.main(arguments(run, toy_tokens, out, "--labels", labels, "--horizon", "60d", *tasks))
    assert "144 trajectories of 24 prompts" in capsys.readouterr().out
    asked = pl.read_parquet(labels).sort("subject_id", "prediction_time")
    vocabulary = token_dataset.open_tokens(toy_tokens).vocabulary
    parts = [pl.read_parquet(out / "trajectories" / f"{n:04d}.parquet").with_columns(sample=n) for n in range(6)]
    futures = pl.concat(parts)
    assert set(futures.columns) >= {"subject_id", "prediction_time", "time", "code", "numeric_value"}
    assert (futures["time"] > futures["prediction_time"]).all()
    assert futures.select((pl.col("time") <= pl.col("prediction_time") + pl.duration(days=60)).all()).item()
    assert not set(futures["code"]) & {"[PAD]", "[CLS]", "[MASK]", "[SEP]", "[UNK]"}
    known = set(vocabulary.table["code"].drop_nulls())
    assert set(futures["code"]) <= known
    labs = futures.filter(pl.col("code").str.starts_with("LAB"), pl.col("text_value").is_not_null())
    assert len(labs) and labs["numeric_value"].is_not_null().all()
    # The risks by counting, told again from the trajectories.
    risks = pl.read_parquet(out / "risks.parquet")
    assert set(risks["task"]) == {"dx", "lab"} and len(risks) == 2 * len(asked)
    for task, pattern, days in (("dx", "^DX//1", 60), ("lab", "^LAB//0", 30)):
        hits = (
            futures.filter(
                pl.col("code").str.contains(pattern),
                pl.col("time") <= pl.col("prediction_time") + pl.duration(days=days),
            )
            .select("subject_id", "prediction_time", "sample")
            .unique()
        )
        counted = hits.group_by("subject_id", "prediction_time").len("hits")
        own = risks.filter(task=task).join(counted, on=["subject_id", "prediction_time"], how="left")
        left = 6 * (1 - own["void"])
        np.testing.assert_allclose(own["count"].fill_nan(0), own["hits"].fill_null(0) / left.clip(1), atol=1e-12)
        assert (own["count"].is_nan() == (own["void"] == 1)).all()
        own = own.filter(pl.col("void") < 1)
        assert ((own["expected"] >= 0) & (own["expected_error"] >= 0)).all()
    told = pl.read_parquet(out / "predictions" / "dx.parquet")
    assert told.columns == [
        "subject_id",
        "prediction_time",
        "boolean_value",
        "predicted_boolean_value",
        "predicted_boolean_probability",
    ]
    known = risks.filter(pl.col("task") == "dx", pl.col("void") < 1).select("subject_id", "prediction_time")
    known = known.join(asked, on=known.columns, how="inner").sort(known.columns)
    assert told.select(known.columns).sort("subject_id", "prediction_time").equals(known)
    assert pl.read_parquet(out / "predictions" / "lab.parquet")["boolean_value"].null_count() == len(known)
    summary = json.loads((out / "generation.json").read_text())
    assert sum(summary["ended_by"].values()) == 144 and summary["stops"] == ["DX//33"]
    assert (
        not list(out.glob("blocks*"))
        and pq.read_schema(out / "trajectories" / "0000.parquet").field("time").type.unit == "us"
    )


def test_rollouts_tell_which_end_comes_first(run, toy_tokens, tmp_path, capsys):
    out = tmp_path / "out"
    generate.main(
        arguments(run, toy_tokens, out, "--at", "after:DX//2", "--offset", "1d", "--stop", "DX//1.*", "LAB//3.*")
    )
    told = pl.read_parquet(out / "rollouts.parquet")
    split = token_dataset.open_tokens(toy_tokens).split("train")
    strings = token_dataset.open_tokens(toy_tokens).vocabulary.strings
    places = {int(s): i for i, s in enumerate(split.subject_ids)}
    some = 0
    for row in told.iter_rows(named=True):
        subject = split.subject(places[row["subject_id"]])
        words = [strings[t] for t in subject.tokens]
        last = max(i for i, w in enumerate(words) if w == "DX//2")
        assert row["prediction_time"].timestamp() * 1e6 == pytest.approx(int(subject.times[last]) + DAY, abs=2)
        later = [
            w
            for w, t in zip(words[subject.num_static :], subject.times[subject.num_static :])
            if t > subject.times[last] + DAY
        ]
        first = next((w for w in later if w.startswith(("DX//1", "LAB//3"))), None)
        assert row["truth"] == first
        some += first is not None
    assert some > 3 and "first end token: right for" in capsys.readouterr().out


def test_a_killed_generation_goes_on(run, toy_tokens, labels, tmp_path, monkeypatch):
    monkeypatch.setattr(generating, "BLOCK", 5)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    more = ["--labels", labels, "--task", "dx=DX//1.*"]
    generate.main(arguments(run, toy_tokens, whole, *more))
    written = generating.outputs.write_block
    calls = []

    def failing(path, *rest):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(path.name)
        written(path, *rest)

    monkeypatch.setattr(generating.outputs, "write_block", failing)
    with pytest.raises(KeyboardInterrupt):
        generate.main(arguments(run, toy_tokens, cut, *more))
    assert not cut.exists()
    later = []
    monkeypatch.setattr(
        generating.outputs, "write_block", lambda path, *rest: (later.append(path.name), written(path, *rest))
    )
    generate.main(arguments(run, toy_tokens, cut, *more))
    assert later == ["00002.parquet", "00003.parquet", "00004.parquet"]
    for path in whole.rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (cut / path.relative_to(whole)).read_bytes(), path.name


def test_risks_alone(run, toy_tokens, labels, tmp_path):
    """Rows that end once all is decided tell the same as whole ones."""
    more = ["--labels", labels, "--task", "dx=DX//1.*", "--horizon", "60d"]
    generate.main(arguments(run, toy_tokens, tmp_path / "a", *more))
    generate.main(arguments(run, toy_tokens, tmp_path / "b", *more, "--no_trajectories"))
    a, b = (pl.read_parquet(tmp_path / name / "risks.parquet") for name in "ab")
    assert_frame_equal(a, b, abs_tol=1e-5)
    assert not (tmp_path / "b" / "trajectories").exists()


REFUSED = {
    "a stop that is no code": (["--at", "last", "--stop", "DX//1000"], "--stop names 'DX//1000', which is no token"),
    "no time": ([], "Say when is asked"),
    "two times": (["--at", "last", "--labels", "x"], "one of them"),
    "a bad time": (["--at", "yesterday"], "is not 'last'"),
    "nobody": (["--at", "1500-01-01"], "leaves no subject"),
    "a bad horizon": (["--at", "last", "--horizon", "2"], "no duration"),
    "a bad task": (["--at", "last", "--task", "DX//1"], "must have the form NAME=CODE"),
    "a task twice": (["--at", "last", "--task", "a=DX//1", "--task", "a=DX//2"], "Two tasks have one name"),
    "no steps": (["--at", "last", "--chunk", "0"], "--chunk is 0"),
    "fewer than no prompt tokens": (["--at", "last", "--prompt_tokens", "-5"], "--prompt_tokens is -5"),
    "no horizon": (["--at", "last", "--horizon", "0.1m"], "is no duration"),
    "no temperature": (["--at", "last", "--temperature", "nan"], "temperature is nan"),
    "an age of nobody": (["--at", "age:1e9"], "is not 'last'"),
    "no samples": (["--at", "last", "--samples", "0"], "--samples is 0"),
    "a prompt beyond the context": (["--at", "last", "--prompt_tokens", "65"], "more than the context of 64"),
    "a bad split": (["--at", "last", "--split", "test"], "--split is 'test'"),
    "no probability": (["--at", "last", "--top_p", "1.5"], "top_p is 1.5"),
    "nothing to tell": (["--at", "last", "--no_trajectories"], "nothing to tell"),
    "no labels": (["--labels", "nowhere.parquet"], "nowhere.parquet"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input(case, run, toy_tokens, tmp_path, capsys):
    more, message = REFUSED[case]
    with pytest.raises(SystemExit) as stopped:
        generate.main(arguments(run, toy_tokens, tmp_path / "out", *more))
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and message in error and error.count("\n") == 1, error
    assert not list(tmp_path.iterdir())


def test_bad_labels_and_bad_tokens(run, toy_tokens, toy_meds, labels, tmp_path, capsys):
    strangers = tmp_path / "strangers.parquet"
    frame = pl.read_parquet(labels)
    frame.with_columns(pl.col("subject_id") + 100_000).write_parquet(strangers)
    held = tmp_path / "two.parquet"
    frame.write_parquet(held)
    twice, early = tmp_path / "twice.parquet", tmp_path / "early.parquet"
    pl.concat([frame, frame.with_columns(~pl.col("boolean_value"))]).write_parquet(twice)
    ancient = frame.with_columns(pl.lit(datetime.datetime(1900, 1, 1)).alias("prediction_time"))
    ancient.unique(["subject_id"]).write_parquet(early)
    from ehrjax.data import prepare_tokens

    prepare_tokens.prepare(toy_meds, tmp_path / "other", behrt_recipe(min_count=300))
    for tokens, more, message in (
        (toy_tokens, ["--labels", strangers], "is asked about but is not in the token dataset (train)"),
        (tmp_path / "other", ["--labels", held], "is in another vocabulary"),
        (toy_tokens, ["--labels", twice], "that contradict each other; keep one"),
        (toy_tokens, ["--labels", early], "has nothing on record by"),
    ):
        with pytest.raises(SystemExit) as stopped:
            generate.main(arguments(run, tokens, tmp_path / "out", *more))
        error = capsys.readouterr().err
        assert stopped.value.code == 2 and message in error and error.count("\n") == 1, error
    assert not (tmp_path / "out").exists()
    jax.clear_caches()


def test_labels_of_another_task_are_no_truth(run, toy_tokens, labels, tmp_path, capsys):
    generate.main(arguments(run, toy_tokens, tmp_path / "out", "--labels", labels, "--task", "x=LAB//0.*@30d"))
    assert "none of the tasks is called dx" in capsys.readouterr().out
    found = pl.read_parquet(tmp_path / "out" / "predictions" / "x.parquet")
    assert len(found) and found["boolean_value"].null_count() == len(found)


def test_a_horizon_without_tasks_and_beyond_them(run, toy_tokens, tmp_path):
    def latest(name: str, *more: str) -> float:
        out = tmp_path / name
        generate.main(arguments(run, toy_tokens, out, "--at", "last", "--limit", 4, *more))
        parts = [pl.read_parquet(path) for path in sorted((out / "trajectories").iterdir())]
        late = pl.concat(parts).select((pl.col("time") - pl.col("prediction_time")).dt.total_hours().max())
        return late.item() / 24

    free, bounded = latest("free"), latest("bounded", "--horizon", "30d")
    assert free > 60 and 10 < bounded <= 30
    task = latest("task", "--task", "x=DX//1.*@5d")
    beyond = latest("beyond", "--task", "x=DX//1.*@5d", "--horizon", "30d")
    assert task <= 5 < 10 < beyond <= 30
    # The wider horizon changes neither the risk nor the share that ran out of tokens.
    a, b = (pl.read_parquet(tmp_path / name / "risks.parquet") for name in ("task", "beyond"))
    assert_frame_equal(a, b, abs_tol=1e-6)


def test_nobody_is_sampled_behind_a_death(run, toy_tokens, tmp_path, capsys, monkeypatch):
    from ehrjax.vocab import events

    split = token_dataset.open_tokens(toy_tokens).split("train")
    dead = [split.subject(i) for i in range(4)]
    # One code stands for death; each of the four has it at the end.
    monkeypatch.setattr(events, "DEATH", "DX//")
    frame = pl.DataFrame(
        [(s.subject_id, int(s.times[place]), True) for s in dead for place in (s.num_static, len(s.times) - 1)],
        schema={"subject_id": pl.Int64, "prediction_time": pl.Int64, "boolean_value": pl.Boolean},
        orient="row",
    ).with_columns(pl.col("prediction_time").cast(pl.Datetime("us")))
    frame.unique().write_parquet(tmp_path / "late.parquet")
    generate.main(
        arguments(run, toy_tokens, tmp_path / "out", "--labels", tmp_path / "late.parquet", "--task", "x=LAB//0.*")
    )
    out = capsys.readouterr().out
    left = pl.read_parquet(tmp_path / "out" / "risks.parquet")
    assert "lie at or behind a death on record: left out" in out and 0 < len(left) < 8
    strings = np.array(token_dataset.open_tokens(toy_tokens).vocabulary.strings)
    for subject_id, at in left.select("subject_id", "prediction_time").iter_rows():
        subject = next(s for s in dead if s.subject_id == subject_id)
        known = subject.times <= int(at.replace(tzinfo=datetime.UTC).timestamp() * 1e6)
        assert not any(word.startswith("DX//") for word in strings[subject.tokens[known]])


def test_means_are_of_the_risks_that_are_known(run, toy_tokens, labels, tmp_path, capsys):
    asked = pl.read_parquet(labels).sort("subject_id", "prediction_time").head(2)
    # Nothing that is sampled comes so late.
    late = pl.when(pl.int_range(pl.len()) == 0).then(pl.lit(datetime.datetime(2290, 1, 1))).otherwise("prediction_time")
    asked.with_columns(late.cast(pl.Datetime("us")).alias("prediction_time")).write_parquet(tmp_path / "late.parquet")
    out = tmp_path / "out"
    generate.main(arguments(run, toy_tokens, out, "--labels", tmp_path / "late.parquet", "--task", "dx=DX//1.*@30d"))
    known = pl.read_parquet(out / "risks.parquet")["combined"].fill_nan(None).drop_nulls()
    assert len(known) == 1
    said = capsys.readouterr().out
    assert "dx: no risk for 1 of 2 prompts" in said and f"dx: mean risk {known[0]:.4f}" in said
