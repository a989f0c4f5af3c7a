"""Batches: what they hold, and that their order is a pure function of (seed, position)."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from ehrjax import data
from ehrjax.core import batch as batches
from ehrjax.core.errors import InputError
from ehrjax.data import pipeline, token_dataset
from ehrjax.vocab.grammar import NO_TIME


def settings(tokens: Path, **changes: object) -> pipeline.Settings:
    return pipeline.Settings(**{"path": str(tokens), "context_length": 64, "max_segments": 8, **changes})


def read(tokens: Path, *, count: int, rows: range = range(8), **changes: object) -> list:
    start = {key: changes.pop(key) for key in ("epoch", "batch_in_epoch", "seed") if key in changes}
    chosen = settings(tokens, **changes)
    source = pipeline.Batches(
        str(tokens), "train", chosen, batch_size=8, rows=rows, count=count, **{"seed": 0, **start}
    )
    return list(pipeline.iterate(source, chosen))


def same(a: list, b: list) -> bool:
    return len(a) == len(b) and all(
        x[:2] == y[:2] and all(np.array_equal(x[2][n], y[2][n], equal_nan=n in ("ages", "values")) for n in x[2])
        for x, y in zip(a, b)
    )


def test_an_epoch_shows_every_token_of_every_subject_once(toy_tokens: Path) -> None:
    split = token_dataset.open_tokens(toy_tokens).split("train")
    count = pipeline.plan_epoch(split, settings(toy_tokens), seed=0).num_batches(8)
    seen: dict[int, Counter] = {}
    for epoch, _, batch in read(toy_tokens, count=count):
        assert epoch == 0
        for row, segment in np.argwhere(batch["subject_id"] >= 0):
            here = batch["segment_ids"][row] == segment + 1
            timed = here & (batch["times"][row] != NO_TIME)
            pairs = zip(batch["times"][row][timed].tolist(), batch["tokens"][row][timed].tolist())
            seen.setdefault(int(batch["subject_id"][row, segment]), Counter()).update(pairs)
            # The static prefix is the subject's own, in front.
            subject = split.subject(int(np.flatnonzero(split.subject_ids == batch["subject_id"][row, segment])[0]))
            assert np.array_equal(
                batch["tokens"][row][here][: subject.num_static], subject.tokens[: subject.num_static]
            )
    assert set(seen) == set(split.subject_ids.tolist())
    for index in range(len(split)):
        subject = split.subject(index)
        timed = slice(subject.num_static, None)
        pairs = zip(subject.times[timed].tolist(), subject.tokens[timed].tolist())
        assert seen[subject.subject_id] == Counter(pairs)


def test_order_is_a_function_of_seed_and_position(toy_tokens: Path) -> None:
    whole = read(toy_tokens, count=40)
    assert same(whole, read(toy_tokens, count=40))
    assert not same(whole[:3], read(toy_tokens, count=3, seed=1))
    assert max(epoch for epoch, *_ in whole) >= 1, "the test must cross an epoch"
    for at in (1, 19, 39):
        epoch, index, _ = whole[at - 1]
        assert same(whole[at:], read(toy_tokens, count=40 - at, epoch=epoch, batch_in_epoch=index + 1))


def test_loader_processes_and_read_ahead_change_nothing(toy_tokens: Path) -> None:
    whole = read(toy_tokens, count=10)
    assert same(whole, read(toy_tokens, count=10, num_workers=2))
    assert same(whole, read(toy_tokens, count=10, prefetch=1))


def test_each_host_builds_its_slice(toy_tokens: Path) -> None:
    whole, upper, lower = (read(toy_tokens, count=5, rows=r) for r in (range(8), range(0, 3), range(3, 8)))
    for (_, _, a), (_, _, b), (_, _, c) in zip(whole, upper, lower):
        for name in a:
            assert np.array_equal(a[name], np.concatenate([b[name], c[name]]), equal_nan=name in ("ages", "values"))


def test_last_batch_is_padded_not_dropped(toy_tokens: Path) -> None:
    split = token_dataset.open_tokens(toy_tokens).split("train")
    epoch = pipeline.plan_epoch(split, settings(toy_tokens), seed=0)
    last = read(toy_tokens, count=epoch.num_batches(8))[-1][2]
    used = (last["segment_ids"] > 0).any(1).sum()
    assert used == (len(epoch.plan) - 1) % 8 + 1


def test_source_survives_pickling(toy_tokens: Path) -> None:
    source = pipeline.Batches(
        str(toy_tokens), "train", settings(toy_tokens), batch_size=8, seed=0, rows=range(8), count=9
    )
    copy = pickle.loads(pickle.dumps(source))
    assert same([source[7]], [copy[7]])


def test_batch_fields(toy_tokens: Path) -> None:
    _, _, batch = read(toy_tokens, count=1)[0]
    for name, array in batch.items():
        assert array.dtype == batches.FIELDS[name].host, name
    real = batch["segment_ids"] > 0
    assert (batch["tokens"][~real] == 0).all() and (batch["positions"][~real] == 0).all()
    for row, segment in np.argwhere(batch["subject_id"] >= 0):
        here = np.flatnonzero(batch["segment_ids"][row] == segment + 1)
        assert np.array_equal(batch["positions"][row, here], np.arange(len(here)))
        assert batch["anchors"][row, segment] == here[-1]
        assert batch["visit_ids"][row, here].min() == 0 and (np.diff(batch["visit_ids"][row, here]) >= 0).all()
    device = batches.device_fields(batch)
    assert device["times"].dtype == np.int32 and (device["times"] >= 0).all()
    assert "subject_id" not in device


def test_density_of_packed_batches(toy_tokens: Path) -> None:
    split = token_dataset.open_tokens(toy_tokens).split("train")
    epoch = pipeline.plan_epoch(split, settings(toy_tokens, context_length=256, max_segments=16), seed=0)
    assert epoch.num_tokens / (len(epoch.plan) * 256) >= 0.97


def test_collate_packs_plain_lists() -> None:
    batch = data.collate([[5, 6, 7], [8, 9], list(range(5, 25))], context_length=16, max_segments=4)
    assert batch["tokens"].shape == (2, 16)
    assert sorted(batch["subject_id"][batch["subject_id"] >= 0].tolist()) == [0, 1, 2, 2]
    assert batches.num_tokens(batch) == 25
    assert np.isnan(batch["ages"][batch["segment_ids"] > 0]).all()
    one = data.collate(
        [dict(tokens=[2, 5, 6], num_static=1, times=[0, 0, 3_600_000_000], birth_time=-(10**15), visits=[0, 4, 5])],
        context_length=8,
    )
    assert batches.device_fields(one)["times"][0, :3].tolist() == [0, 0, 60]
    assert one["visit_ids"][0, :3].tolist() == [0, 0, 1]
    np.testing.assert_allclose(one["ages"][0, :3], 10**15 / (365.25 * 86_400e6), rtol=1e-3)


def test_collate_refuses_what_it_cannot_pack() -> None:
    with pytest.raises(InputError, match="3 tokens but 2 times"):
        data.collate([dict(tokens=[5, 6, 7], times=[0, 1])])
    with pytest.raises(InputError, match="more than batch_size=1"):
        data.collate([list(range(5, 40))], context_length=16, batch_size=1)


def damaged(tokens: Path, to: Path) -> Path:
    import shutil

    shutil.copytree(tokens, to)
    return to


def test_damaged_datasets_are_refused(toy_tokens: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        token_dataset.open_tokens(tmp_path / "nothing")
    cut = damaged(toy_tokens, tmp_path / "cut")
    shard = next((cut / "data" / "train").glob("*.arrow"))
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(InputError, match="truncated or is no Arrow file"):
        token_dataset.open_tokens(cut).split("train")
    foreign = damaged(toy_tokens, tmp_path / "foreign")
    next((foreign / "data" / "train").glob("*.arrow")).write_bytes(b"PAR1 is not Arrow")
    with pytest.raises(InputError, match="truncated or is no Arrow file"):
        token_dataset.open_tokens(foreign).split("train")
    lost = damaged(toy_tokens, tmp_path / "lost")
    next((lost / "data" / "train").glob("*.arrow")).unlink()
    with pytest.raises(InputError, match="a shard is missing"):
        token_dataset.open_tokens(lost).split("train")
    other = damaged(toy_tokens, tmp_path / "other")
    lines = (other / "vocab.csv").read_text().splitlines()
    lines[7], lines[8] = lines[7].replace("6,", "6,X", 1), lines[8]
    (other / "vocab.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError, match="not the vocabulary that these tokens were made with"):
        token_dataset.open_tokens(other)
    broken = damaged(toy_tokens, tmp_path / "broken")
    (broken / "dataset.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read as JSON"):
        token_dataset.open_tokens(broken)
    old = damaged(toy_tokens, tmp_path / "old")
    info = json.loads((old / "dataset.json").read_text())
    (old / "dataset.json").write_text(json.dumps({**info, "version": 99}))
    with pytest.raises(InputError, match="version 2"):
        token_dataset.open_tokens(old)


def test_reading_a_subject_copies_nothing(toy_tokens: Path) -> None:
    split = token_dataset.open_tokens(toy_tokens).split("train")
    subject = split.subject(3)
    assert not subject.tokens.flags.owndata and not subject.tokens.flags.writeable
    assert np.shares_memory(subject.tokens, split.shards[0].columns["tokens"])
