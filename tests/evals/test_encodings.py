"""Vectors of codes, visits and patients: those of the model one at a time, however they are packed."""

from __future__ import annotations

import dataclasses
import json
import types

import numpy as np
import polars as pl
import pytest

import ehrjax
from ehrjax.core.errors import InputError
from ehrjax.data import rows, token_dataset
from ehrjax.evals import encodings, vector_files
from ehrjax.metrics import similarity
from tests.conftest import run_here
from tests.hf import born


@pytest.fixture(scope="module")
def run(toy_tokens, tmp_path_factory):
    """A BERT in the vocabulary of the toy tokens, with room for 64 tokens: some subjects are longer."""
    from ehrjax.hf import resize

    folder = tmp_path_factory.mktemp("encodings")
    born.write(folder / "born", "bert")
    vocabulary = token_dataset.open_tokens(toy_tokens).vocabulary
    resize.resize(folder / "born", vocabulary, folder / "run")
    return ehrjax.load(folder / "run")


@pytest.fixture(scope="module")
def subjects(toy_tokens):
    split = token_dataset.open_tokens(toy_tokens).split("train")
    chosen = [split.subject(i) for i in range(25)]
    assert any(len(s.tokens) > 64 for s in chosen) and any(len(s.tokens) < 64 for s in chosen)
    return chosen


def alone(run, tokens: np.ndarray) -> np.ndarray:
    """The hidden states of some tokens by themselves, one row."""
    batch = rows.collate([tokens.tolist()], context_length=64)
    return np.asarray(run.encode(batch))[0, : len(tokens)]


@pytest.mark.parametrize("pool", encodings.POOLS)
def test_a_visit_by_itself(pool, run, subjects):
    # One of them has a visit that is longer than the context.
    longest = max(subjects, key=lambda subject: len(subject.tokens))
    subjects = [*subjects, dataclasses.replace(longest, subject_id=-1, visits=np.zeros_like(longest.visits))]
    found = encodings.visits(run, subjects, pool=pool)
    specials = run.vocabulary.num_specials
    expected = []
    for subject in subjects:
        for visit in np.unique(subject.visits[subject.num_static :]):
            mine = (subject.visits == visit) & (np.arange(len(subject.tokens)) >= subject.num_static)
            codes = subject.tokens[mine & (subject.tokens >= specials)]
            if len(codes):
                pieces = [
                    alone(run, np.concatenate([[run.vocabulary.cls], piece]))
                    for piece in np.array_split(codes, -(-len(codes) // 63))
                ]
                real = np.concatenate([piece[1:] for piece in pieces])
                vector = {"cls": pieces[0][0], "last": real[-1], "mean": real.mean(0), "max": real.max(0)}[pool]
                expected.append((subject.subject_id, int(visit), len(codes), vector))
    assert expected[-1][2] > 2 * 63
    assert found.columns["subject_id"].tolist() == [e[0] for e in expected]
    assert found.columns["visit"].tolist() == [e[1] for e in expected]
    assert found.columns["codes"].tolist() == [e[2] for e in expected]
    np.testing.assert_allclose(found.vectors, np.stack([e[3] for e in expected]), atol=1e-5)


@pytest.mark.parametrize("pool", encodings.POOLS)
def test_a_patient_that_fits_and_one_that_does_not(pool, run, subjects):
    found = encodings.patients(run, subjects, pool=pool)
    assert found.columns["subject_id"].tolist() == [s.subject_id for s in subjects]
    for subject, vector in zip(subjects, found.vectors):
        batch = rows.collate([subject], context_length=64, max_segments=1)
        hidden, segments = np.asarray(run.encode(batch)), batch["segment_ids"]
        parts = [(hidden[r][segments[r] > 0], batch["tokens"][r][segments[r] > 0]) for r in range(len(hidden))]
        starts = [int(batch["window_start"][r, 0]) for r in range(len(hidden))]
        order = np.argsort(starts, kind="stable")
        if pool in ("cls", "last"):
            if len(set(starts)) < len(starts):
                continue  # windows that begin at the same time cannot be told apart here
            expected = parts[order[-1]][0][0 if pool == "cls" else -1]
        else:
            real = [h[t >= run.vocabulary.num_specials] if i == order[0] else
                    h[subject.num_static :][t[subject.num_static :] >= run.vocabulary.num_specials]
                    for i, (h, t) in enumerate(parts)]  # fmt: skip
            joined = np.concatenate(real)
            expected = joined.mean(0) if pool == "mean" else joined.max(0)
        np.testing.assert_allclose(vector, expected, atol=1e-5)


def test_a_vector_does_not_depend_on_who_else_is_encoded(run, subjects):
    for make in (encodings.visits, encodings.patients):
        everyone = make(run, subjects, pool="mean")
        one = make(run, subjects[3:4], pool="mean")
        mine = everyone.columns["subject_id"] == subjects[3].subject_id
        np.testing.assert_allclose(everyone.vectors[mine], one.vectors, atol=1e-6)


def test_visits_of_a_history_know_the_rest(run, subjects):
    apart, within = (encodings.visits(run, subjects, pool="mean", alone=a) for a in (True, False))
    assert apart.columns["subject_id"].tolist() == within.columns["subject_id"].tolist()
    assert apart.columns["time"].tolist() == within.columns["time"].tolist()
    assert not np.allclose(apart.vectors, within.vectors, atol=1e-3)


def test_contextual_codes_are_means_over_all_occurrences(run, toy_tokens):
    split = token_dataset.open_tokens(toy_tokens).split("tuning")
    found = encodings.contextual_codes(run, [split])
    tokens = np.concatenate([s.columns["tokens"] for s in split.shards])
    there, counts = np.unique(tokens, return_counts=True)
    assert found.columns["token"].tolist() == there.tolist() and found.columns["count"].tolist() == counts.tolist()


def test_attention_is_a_distribution_inside_each_segment(run):
    batch = rows.collate([[6, 7, 8, 9], [10, 11]], context_length=16)
    weights = run.attention(batch)
    assert weights.shape == (2, 1, 3, 16, 16)
    np.testing.assert_allclose(weights[..., :6, :].sum(-1), 1, atol=1e-5)
    assert not weights[..., :4, 4:].any() and not weights[..., 4:6, :4].any() and not weights[..., 6:, :].any()


def test_attention_received_is_the_mean_over_occurrences(run, toy_tokens):
    split = token_dataset.open_tokens(toy_tokens).split("tuning")
    found = encodings.received_attention(run, [split])
    contextual = encodings.contextual_codes(run, [split])
    assert found.token.tolist() == contextual.columns["token"].tolist()
    assert found.count.tolist() == contextual.columns["count"].tolist()
    total, counts = np.zeros((len(run.vocabulary), 2, 3)), np.zeros(len(run.vocabulary))
    for i in range(len(split)):
        subject = split.subject(i)
        batch = rows.collate([subject], context_length=64, max_segments=1)
        weights = run.attention(batch)
        first = batch["window_start"][:, 0].argmin()
        for row, tokens in enumerate(batch["tokens"]):
            for place in np.flatnonzero(batch["segment_ids"][row]):
                if row == first or place >= subject.num_static:
                    total[tokens[place]] += weights[:, row, :, :, place].sum(-1)
                    counts[tokens[place]] += 1
    there = np.flatnonzero(counts)
    np.testing.assert_allclose(found.attention, total[there] / counts[there, None, None], rtol=1e-4)


def test_the_verb_writes_attention_or_says_why_not(run, toy_tokens, tmp_path):
    common = [f"--workdir={run.folder}", f"--input={toy_tokens}", "--split=tuning"]
    out, attention = tmp_path / "codes.npz", tmp_path / "attention.npz"
    for more, message in (
        ([f"--output={out}", f"--attention={attention}"], "--attention needs --contextual"),
        ([f"--output={out}", f"--attention={out}", "--contextual"], "name the same file"),
        ([f"--output={out}", f"--attention={tmp_path / 'a.csv'}", "--contextual"], "written to .npz"),
        ([f"--output={out}", f"--attention={attention}", "--contextual"], None),
    ):
        result = run_here("encode", "codes", *common, *more)
        if message:
            assert result.returncode == 2 and message in result.stderr and "Traceback" not in result.stderr, (
                result.stderr
            )
            assert not list(tmp_path.iterdir())
        else:
            assert result.returncode == 0, result.stderr
    with np.load(attention) as told, np.load(out) as codes:
        assert told["attention"].shape == (len(told["token"]), 2, 3)
        assert told["token"].tolist() == codes["token"].tolist() and told["str"].tolist() == codes["str"].tolist()
        mean = (told["attention"] * told["count"][:, None, None]).sum(0) / told["count"].sum()
        # Static tokens of later windows do not count, so this is near 1 and not 1.
        np.testing.assert_allclose(mean, 1, atol=0.1)


def test_a_model_without_attention_is_refused(run, toy_tokens):
    split = token_dataset.open_tokens(toy_tokens).split("tuning")
    config = {**run.config, "model": {"name": "plain"}}
    parts = dataclasses.replace(run.parts, model=types.SimpleNamespace(config=object()))
    with pytest.raises(InputError, match="The model plain has no attention"):
        encodings.received_attention(dataclasses.replace(run, config=config, parts=parts), [split])


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("v.npz", lambda path: path.write_bytes(b"PK\x03\x04 cut"), "is truncated"),
        ("v.npz", lambda path: np.savez(path, vectors=np.zeros(4), subject_id=np.arange(4)), r"of shape \[4\]"),
        ("v.npz", lambda path: np.savez(path, vectors=np.zeros((4, 2)), subject_id=np.arange(3)), "subject_id is of"),
        ("v.npz", lambda path: np.savez(path, vectors=np.array([["a"]])), "holds <U1"),
        ("v.parquet", lambda path: pl.DataFrame({"vector": ["a", "b"]}).write_parquet(path), "no vectors that encode"),
        (
            "v.parquet",
            lambda path: pl.DataFrame({"vector": [[1.0], [2.0, 3.0, 4.0]]}).write_parquet(path),
            "no vectors",
        ),
    ],
)
def test_files_that_hold_no_vectors(name, write, message, tmp_path):
    write(tmp_path / name)
    with pytest.raises(InputError, match=message):
        vector_files.read(tmp_path / name)


def test_the_verb_streams_files_that_agree(run, toy_tokens, tmp_path, monkeypatch):
    files = {}
    for name in ("parquet", "npz"):
        path = tmp_path / f"patients.{name}"
        result = run_here("encode", "patients", f"--workdir={run.folder}", f"--input={toy_tokens}", f"--output={path}")
        assert result.returncode == 0, result.stderr
        files[name] = vector_files.read(path)
    np.testing.assert_array_equal(files["parquet"].vectors, files["npz"].vectors)
    dataset = token_dataset.open_tokens(toy_tokens)
    everyone = np.concatenate([dataset.split(s).subject_ids for s in ("train", "tuning", "held_out")])
    assert files["parquet"].columns["subject_id"].tolist() == everyone.tolist()
    near = similarity.nearest(files["npz"].vectors, 0, 3)
    unit = files["npz"].vectors / np.linalg.norm(files["npz"].vectors, axis=1, keepdims=True)
    order = np.argsort(-(unit @ unit[0]))
    assert [i for i, _ in near] == [i for i in order.tolist() if i][:3]
    result = run_here(
        "encode", "nearest", f"--vectors={tmp_path / 'patients.parquet'}", f"--subject={everyone[0]}", "--k=3"
    )
    assert [int(line.split()[0]) for line in result.stdout.splitlines()] == [int(everyone[i]) for i, _ in near], (
        result.stderr
    )


def test_bad_input(run, toy_tokens, tmp_path):
    born.write(tmp_path / "other", "bert")
    for arguments, message in (
        ([f"--workdir={tmp_path / 'other'}", f"--output={tmp_path / 'v.parquet'}"], "is in another vocabulary"),
        ([f"--workdir={run.folder}", f"--output={tmp_path / 'v.csv'}"], "written to .parquet or .npz"),
        ([f"--workdir={run.folder}", f"--output={tmp_path / 'v.npz'}", "--pool=median"], "--pool is 'median'"),
        ([f"--workdir={run.folder}", f"--output={tmp_path / 'v.npz'}", "--split=test"], "--split is 'test'"),
        ([f"--workdir={run.folder}", f"--output={tmp_path / 'v.npz'}", "--split=train,train"], "names a split twice"),
        ([f"--workdir={run.folder}", f"--output={run.folder / 'config.json' / 'v.parquet'}"], "Cannot write the file"),
    ):
        result = run_here("encode", "visits", f"--input={toy_tokens}", *arguments)
        assert result.returncode == 2 and message in result.stderr and "Traceback" not in result.stderr, result.stderr
    for k in (0, -4):
        result = run_here("encode", "nearest", f"--vectors={tmp_path / 'v.npz'}", "--subject=1", f"--k={k}")
        assert result.returncode == 2 and f"--k is {k}" in result.stderr, result.stderr
    with pytest.raises(InputError, match="holds no vectors"):
        vector_files.read(tmp_path / "none.npz")
    assert json.loads((run.folder / "config.json").read_text())["config"]["model"]["name"] == "bert"
