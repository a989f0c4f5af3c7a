"""Preparation by pieces: the bytes depend neither on the pieces nor on interruptions, and nobody works twice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ehrjax.core import config as configs
from ehrjax.core.errors import InputError
from ehrjax.data import engines, prepare_tokens, token_dataset, token_stages
from ehrjax.ingest import meds
from ehrjax.vocab import recipe
from tests.conftest import ROOT, behrt_recipe

CONFIGS = sorted(path.stem for path in (ROOT / "configs" / "tokens").glob("*.py"))


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def grammar_of(name: str) -> recipe.Recipe:
    config = configs.from_argv([f"--config={ROOT}/configs/tokens/{name}.py", "--config.min_count=2"])
    return recipe.from_config(config)


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare_tokens, "CHUNK_EVENTS", 500)
    monkeypatch.setattr(token_stages, "SHARD_EVENTS", 3_000)


@pytest.mark.parametrize("name", CONFIGS)
def test_pieces_and_workers_do_not_change_the_bytes(
    name: str, toy_meds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_stages, "SHARD_EVENTS", 3_000)
    # One file with many small row groups instead of two files.
    source = meds.open_dataset(toy_meds)
    events = pl.concat([source.read_shard(path) for path in source.shards])
    again = tmp_path / "meds"
    (again / "data").mkdir(parents=True)
    events.write_parquet(again / "data" / "all.parquet", row_group_size=170)
    (again / "metadata").symlink_to(toy_meds / "metadata")
    prepare_tokens.prepare(toy_meds, tmp_path / "whole", grammar_of(name))
    whole = content(tmp_path / "whole")
    assert len([path for path in whole if path.startswith("data/train/")]) > 3
    # What processes share does not depend on the grammar, and starting them takes long.
    pieces = ((10**9, 1), (500, 1), (500, 3), (1, 2)) if name == "ethos" else ((500, 1), (1, 1))
    for chunk, workers in pieces:
        monkeypatch.setattr(prepare_tokens, "CHUNK_EVENTS", chunk)
        target = tmp_path / f"{chunk}-{workers}"
        prepare_tokens.prepare(again, target, grammar_of(name), engine=engines.Local(workers))
        other = content(target)
        # The source's fingerprint is of its files, so only dataset.json differs.
        assert {k: v for k, v in other.items() if k != "dataset.json"} == {
            k: v for k, v in whole.items() if k != "dataset.json"
        }


def test_subjects_lie_in_the_shard_of_their_hash(toy_meds: Path, tmp_path: Path, small_pieces: None) -> None:
    prepare_tokens.prepare(toy_meds, tmp_path / "tokens", behrt_recipe())
    events = meds.open_dataset(toy_meds).count_events()
    shards = token_stages.num_shards(events)
    assert shards == -(-events // 3_000) > 3
    for path in (tmp_path / "tokens" / "data").rglob("*.arrow"):
        subjects = token_dataset.read_shard(path).subject_id
        assert (np.diff(subjects) > 0).all()
        assert (token_stages.shard_of(subjects, shards) == int(path.stem)).all()


@pytest.mark.parametrize("stage", ["tokenize", "finish"])
def test_an_interrupted_stage_resumes(
    stage: str, toy_meds: Path, tmp_path: Path, small_pieces: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare_tokens.prepare(toy_meds, tmp_path / "whole", behrt_recipe())
    calls: list[int] = []
    function = getattr(token_stages, stage)

    def stopping(*arguments: object) -> object:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return function(*arguments)

    monkeypatch.setattr(token_stages, stage, stopping)
    target = tmp_path / "tokens"
    with pytest.raises(KeyboardInterrupt):
        prepare_tokens.prepare(toy_meds, target, behrt_recipe(), engine=engines.Local(1))
    assert not target.exists() and (tmp_path / ".tokens.partial").is_dir()
    in_all = len(calls)
    calls.clear()
    calls.extend([1] * 10)  # never stops again
    prepare_tokens.prepare(toy_meds, target, behrt_recipe())
    assert content(target) == content(tmp_path / "whole")
    assert not (tmp_path / ".tokens.partial").exists()
    pieces = len(list(meds.open_dataset(toy_meds).chunks(500)))
    shards = token_stages.num_shards(meds.open_dataset(toy_meds).count_events())
    total = pieces if stage == "tokenize" else shards
    assert len(calls) - 10 <= total - (in_all - 3), "what was finished is not done again"


def test_what_another_recipe_left_is_not_used(
    toy_meds: Path, tmp_path: Path, small_pieces: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    function = token_stages.finish
    monkeypatch.setattr(token_stages, "finish", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        prepare_tokens.prepare(toy_meds, tmp_path / "tokens", behrt_recipe(drop=()))
    monkeypatch.setattr(token_stages, "finish", function)
    prepare_tokens.prepare(toy_meds, tmp_path / "tokens", behrt_recipe())
    prepare_tokens.prepare(toy_meds, tmp_path / "whole", behrt_recipe())
    assert content(tmp_path / "tokens") == content(tmp_path / "whole")


def test_two_runs_on_one_output_are_refused(toy_meds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    messages = []

    def meanwhile(*arguments: object) -> object:
        with pytest.raises(InputError) as caught:
            prepare_tokens.prepare(toy_meds, tmp_path / "tokens", behrt_recipe())
        messages.append(str(caught.value))
        return function(*arguments)

    function = token_stages.finish
    monkeypatch.setattr(token_stages, "finish", meanwhile)
    prepare_tokens.prepare(toy_meds, tmp_path / "tokens", behrt_recipe())
    assert messages and "Another process that writes the token dataset is working in" in messages[0]
    assert (tmp_path / "tokens" / "dataset.json").is_file()


def test_bad_input_leaves_nothing(toy_meds: Path, tmp_path: Path, small_pieces: None) -> None:
    import shutil

    copy = Path(shutil.copytree(toy_meds, tmp_path / "meds"))
    shard = meds.open_dataset(copy).shards[-1]
    events = pl.read_parquet(shard)
    pl.concat([events, events.head(3)]).write_parquet(shard)
    with pytest.raises(InputError, match="does not keep each subject's rows together|more than one file"):
        prepare_tokens.prepare(copy, tmp_path / "tokens", behrt_recipe())
    assert [path.name for path in tmp_path.iterdir()] == ["meds"]


def test_rare_tokens_are_dropped_on_request(toy_meds: Path, tmp_path: Path) -> None:
    import dataclasses

    kept = behrt_recipe(min_count=300)
    prepare_tokens.prepare(toy_meds, tmp_path / "unk", kept)
    prepare_tokens.prepare(toy_meds, tmp_path / "drop", dataclasses.replace(kept, rare="drop"))
    unk, drop = (token_dataset.open_tokens(tmp_path / name) for name in ("unk", "drop"))
    assert unk.vocabulary.strings == drop.vocabulary.strings
    lost = 0
    for a, b in (
        (unk.split("train").subject(i), drop.split("train").subject(i)) for i in range(len(drop.split("train")))
    ):
        keep = a.tokens != unk.vocabulary.unk
        lost += np.count_nonzero(~keep)
        assert a.subject_id == b.subject_id
        for name in token_dataset.RAGGED:
            np.testing.assert_array_equal(getattr(a, name)[keep], getattr(b, name))
        assert b.num_static == np.count_nonzero(keep[: a.num_static])
    assert lost > 0 and drop.info["splits"]["train"]["known"] == drop.info["splits"]["train"]["events"]


def test_pseudo_dates_refuse_what_needs_dates(toy_meds: Path, tmp_path: Path) -> None:
    import json
    import shutil

    copy = Path(shutil.copytree(toy_meds, tmp_path / "meds"))
    path = copy / "metadata" / "dataset.json"
    metadata = json.loads(path.read_text())
    spans = {"cehr_bert", "ethos", "flat", "generative", "lifelong"}
    for good_for, refused in (("order", spans), ("intervals", {"cehr_bert"}), (None, set())):
        if good_for:
            metadata["pseudo_dates"] = {"good_for": good_for, "text": "ages"}
        else:
            metadata.pop("pseudo_dates", None)
        path.write_text(json.dumps(metadata))
        for name in CONFIGS:
            target = tmp_path / f"{name}-{good_for}"
            grammar = grammar_of(name)
            if name in refused:
                with pytest.raises(InputError, match="needs (dates|intervals), but the times of"):
                    prepare_tokens.prepare(copy, target, grammar)
            else:
                prepare_tokens.prepare(copy, target, grammar)


def test_cehr_bert_with_values_is_what_its_model_is_trained_on() -> None:
    from ehrjax.core import config as configs

    with_values = configs.to_dict(configs.from_argv(["--config=configs/tokens/cehr_bert.py:values"]))
    trained_on = configs.to_dict(configs.from_argv(["--config=configs/cehr_bert.py"]))["embedded"]["recipe"]
    # The synthetic hospital opens visits with one family of codes.
    assert {**with_values, "visit_tokens": None} == {**trained_on, "visit_tokens": None, "rare": "unk", "min_events": 1}
    assert set(trained_on["visit_tokens"]["types"]) <= set(with_values["visit_tokens"]["types"])
