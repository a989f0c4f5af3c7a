"""Labels as windows: what is in them, what is set aside, what is refused."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from ehrjax.core.errors import InputError
from ehrjax.data import labelled, pipeline, token_dataset
from ehrjax.ingest.labels import reading

US = pl.Datetime("us")


def settings(tokens, labels, **changes) -> pipeline.Settings:
    given = dict(path=str(tokens), context_length=64, max_segments=8, labels=str(labels))
    return pipeline.Settings(**{**given, **changes})


@pytest.fixture(scope="module")
def asked(toy_tokens, tmp_path_factory):
    """Labels in the middle and at the end of everybody's record, one before anything, one of a stranger."""
    dataset = token_dataset.open_tokens(toy_tokens)
    rows = [(10**6, 0, True)]
    for name in ("train", "tuning", "held_out"):
        split = dataset.split(name)
        for i in range(len(split)):
            subject = split.subject(i)
            timed = subject.times[subject.num_static :]
            rows += [
                (subject.subject_id, int(timed[len(timed) // 2]), bool(i % 3 == 0)),
                (subject.subject_id, int(timed[-1]), False),
            ]
            if i == 0:
                rows.append((subject.subject_id, int(timed[0]) - 1, True))
    schema = {"subject_id": pl.Int64, "prediction_time": pl.Int64, "boolean_value": pl.Boolean}
    frame = pl.DataFrame(rows, schema=schema, orient="row").with_columns(pl.col("prediction_time").cast(US))
    path = tmp_path_factory.mktemp("labels") / "task.parquet"
    frame.unique(["subject_id", "prediction_time"], keep="first", maintain_order=True).write_parquet(path)
    return path


def test_a_window_ends_at_its_prediction_time(toy_tokens, asked):
    dataset = token_dataset.open_tokens(toy_tokens)
    given = settings(toy_tokens, asked)
    truth = {
        (s, int(t.timestamp() * 1e6 + (0.5 if t.timestamp() >= 0 else -0.5))): v
        for s, t, v in pl.read_parquet(asked)
        .with_columns(pl.col("prediction_time").dt.replace_time_zone("UTC"))
        .iter_rows()
    }
    for name in ("train", "tuning"):
        part = pipeline.open_split(dataset, name, given)
        split = dataset.split(name)
        assert part.set_aside[labelled.NO_HISTORY] == 1 and part.set_aside[labelled.ELSEWHERE] > 0
        epoch = pipeline.plan_epoch(part, given, seed=3, epoch=1)
        seen = 0
        for index in range(epoch.num_batches(4)):
            batch = pipeline.make_batch(part, epoch, given, rows=range(4), batch_size=4, index=index)
            for row, segment in np.argwhere(batch["weights"] > 0):
                inside = batch["segment_ids"][row] == segment + 1
                subject_id = int(batch["subject_id"][row, segment])
                subject = split.subject(int(np.flatnonzero(split.subject_ids == subject_id)[0]))
                times = batch["times"][row][inside]
                last = int(times[-1])
                value = batch["labels"][row, segment, 0]
                # The label of the first prediction time at or behind the window's last token.
                mine = {t: v for (s, t), v in truth.items() if s == subject_id and t >= last}
                assert value == float(mine[min(mine)])
                stop = subject.num_static + int(
                    np.searchsorted(subject.times[subject.num_static :], min(mine), side="right")
                )
                kept = min(stop - subject.num_static, 64 - subject.num_static)
                expected = np.concatenate([subject.tokens[: subject.num_static], subject.tokens[stop - kept : stop]])
                np.testing.assert_array_equal(batch["tokens"][row][inside], expected)
                seen += 1
            unused = batch["weights"] == 0
            assert (batch["labels"][unused] == 0).all() and (batch["subject_id"][unused] == -1).all()
        assert seen == len(part) == len(part.labels)


def test_order_is_a_function_of_the_seed_and_covers_all(toy_tokens, asked):
    given = settings(toy_tokens, asked)
    part = pipeline.open_split(token_dataset.open_tokens(toy_tokens), "train", given)
    plans = [pipeline.plan_epoch(part, given, seed=s, epoch=e).plan for s, e in ((1, 0), (1, 0), (1, 1), (2, 0))]
    assert all(sorted(p.order.tolist()) == list(range(len(part))) for p in plans)
    assert plans[0].order.tolist() == plans[1].order.tolist()
    assert plans[0].order.tolist() not in (plans[2].order.tolist(), plans[3].order.tolist())
    again = pipeline.Batches(str(toy_tokens), "train", given, batch_size=4, seed=1, rows=range(4), count=3)
    for index in range(3):
        _, _, batch = again[index]
        epoch = pipeline.plan_epoch(part, given, seed=1)
        expected = pipeline.make_batch(part, epoch, given, rows=range(4), batch_size=4, index=index)
        for field, values in expected.items():
            np.testing.assert_array_equal(batch[field], values, err_msg=field)


def test_kinds(toy_tokens):
    train = token_dataset.open_tokens(toy_tokens).split("train")
    ids = train.subject_ids[:4].tolist()
    keys = {"subject_id": ids, "prediction_time": pl.Series([10**15] * 4).cast(US), "split": [None] * 4}

    def labels(value: str, **columns) -> reading.Labels:
        return reading.Labels("task", value, pl.DataFrame({**keys, **columns}), {})

    stages = labels("integer_value", integer_value=[3, 1, 3, 2])
    target = labelled.target_of(stages, train.subject_ids)
    assert (target.kind, target.names, target.columns) == ("classes", ("1", "2", "3"), 1)
    assert labelled.values_of(stages, target)[0][:, 0].tolist() == [2, 0, 2, 1]
    alike = labels("integer_value", integer_value=[3] * 4)
    assert labelled.kind_of(alike) == "classes"
    with pytest.raises(InputError, match="have 1 classes"):
        labelled.target_of(alike, train.subject_ids)
    strange = labels("integer_value", integer_value=[9, 1, 3, 2])
    assert labelled.values_of(strange, target)[1].tolist() == [False, True, True, True]
    codes = labels("boolean_value", boolean_value=[True] * 4, label_codes=[["b", "a"], [], ["a"], ["z"]])
    target = labelled.target_of(codes, train.subject_ids)
    assert (target.kind, target.names) == ("codes", ("a", "b", "z"))
    assert labelled.values_of(codes, target)[0].tolist() == [[1, 1, 0], [0, 0, 0], [1, 0, 0], [0, 0, 1]]
    times = labels(
        "boolean_value", boolean_value=[True] * 4, event_time_days=[1.5, 2, 3, 4], censored=[False, True, True, False]
    )
    target = labelled.target_of(times, train.subject_ids)
    assert target.columns == 2 and labelled.values_of(times, target)[0][:2].tolist() == [[1.5, 1], [2, 0]]
    number = labels("float_value", float_value=[0.5, 1.5, 2.5, 3.5])
    assert labelled.target_of(number, train.subject_ids).kind == "number"
    with pytest.raises(InputError, match="have 1 classes; two are needed"):
        labelled.target_of(labels("integer_value", integer_value=[3, 3, 3, 3]), train.subject_ids)


def test_labels_and_tokens_must_agree(toy_tokens, tmp_path):
    dataset = token_dataset.open_tokens(toy_tokens)
    subject = dataset.split("held_out").subject(0)
    frame = pl.DataFrame(
        {
            "subject_id": [subject.subject_id],
            "prediction_time": pl.Series([int(subject.times[-1])]).cast(US),
            "boolean_value": [True],
        }
    )
    (tmp_path / "a" / "train").mkdir(parents=True)
    frame.write_parquet(tmp_path / "a" / "train" / "0.parquet")
    with pytest.raises(InputError, match="in train, the tokens .* in held_out; make both from one dataset"):
        pipeline.open_split(dataset, "held_out", settings(toy_tokens, tmp_path / "a"))
    with pytest.raises(InputError, match="No label of a can be asked of a subject in train of .*1 of another split"):
        pipeline.open_split(dataset, "train", settings(toy_tokens, tmp_path / "a"))
