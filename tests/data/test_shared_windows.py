"""Labels that share a window see what they would see alone, and nothing later."""

from __future__ import annotations

import jax
import numpy as np
import polars as pl
import pytest

from ehrjax.core import config as configs
from ehrjax.core.errors import InputError
from ehrjax.data import labelled, pipeline, prepare_tokens, token_dataset
from ehrjax.training import run, targets
from ehrjax.vocab import vocabulary as vocabularies
from ehrjax.vocab.recipe import Recipe


@pytest.fixture(scope="module")
def asked(toy_tokens, tmp_path_factory):
    """Five labels a subject, at places all over its record."""
    dataset, rows = token_dataset.open_tokens(toy_tokens), []
    for name in ("train", "tuning"):
        split = dataset.split(name)
        for i in range(len(split)):
            subject = split.subject(i)
            times, visits = subject.times[subject.num_static :], subject.visits[subject.num_static :]
            for k in range(5):
                place = k * (len(times) - 1) // 4
                if k % 2:  # at the end of a visit; the others are anywhere
                    place = int(np.flatnonzero(visits == visits[place])[-1])
                rows.append((subject.subject_id, int(times[place]), bool((i + k) % 3 == 0)))
    schema = {"subject_id": pl.Int64, "prediction_time": pl.Int64, "boolean_value": pl.Boolean}
    frame = pl.DataFrame(rows, schema=schema, orient="row").unique(["subject_id", "prediction_time"], keep="first")
    path = tmp_path_factory.mktemp("shared") / "task.parquet"
    frame.with_columns(pl.col("prediction_time").cast(pl.Datetime("us"))).write_parquet(path)
    return path


def opened(tokens, labels, context, most, **more):
    settings = pipeline.Settings(
        str(tokens), context_length=context, max_segments=8, labels=str(labels), labels_per_window=most, **more
    )
    return settings, pipeline.open_split(token_dataset.open_tokens(tokens), "train", settings)


@pytest.mark.parametrize(("context", "most"), [(64, 4), (256, 3), (2048, 8)])
def test_every_label_is_there_once_and_sees_what_it_sees_alone(toy_tokens, asked, context, most):
    _, alone = opened(toy_tokens, asked, context, 1)
    _, part = opened(toy_tokens, asked, context, most)
    assert (len(part) < len(alone)) and part.offsets[-1] == len(part.labels) == len(alone.labels)
    key = lambda p, w, j: (int(p.windows.subject[w]), int(p.stops[j]), int(p.prediction_times[j]))  # noqa: E731
    owners = np.repeat(np.arange(len(part)), np.diff(part.offsets))
    given = sorted((key(part, w, j), part.labels[j].tolist()) for j, w in enumerate(owners))
    assert given == sorted((key(alone, j, j), alone.labels[j].tolist()) for j in range(len(alone)))
    assert np.diff(part.offsets).max() <= most and (part.windows.length <= context).all()
    # What a label sees, and where it stands, is what it is alone: it cannot tell by its place what is still to come.
    place = {key(alone, j, j): alone.windows.start[j] for j in range(len(alone))}
    for j, w in enumerate(owners):
        assert part.windows.start[w] == place[key(part, w, j)] and part.stops[j] <= part.windows.stop[w]


@pytest.fixture(scope="module")
def plain_tokens(toy_meds, tmp_path_factory):
    """Tokens without separators: behind a visit's last event is another visit."""
    folder = tmp_path_factory.mktemp("shared") / "tokens"
    prepare_tokens.prepare(toy_meds, folder, Recipe("plain", steps=("bin_values", "number_visits"), min_count=2))
    return folder


@pytest.mark.parametrize("name", ["gpt2", "visit_lstm"])
def test_a_model_of_the_past_says_the_same_of_a_label_alone_and_among_others(plain_tokens, asked, name):
    config = configs.to_dict(configs._parse([f"--config=configs/{name}.py:smoke"]))
    config["data"]["context_length"] = 256
    if name == "gpt2":
        config["model"]["max_positions"] = 256
    config["objective"] = dict(name="classification", pooling="last", dropout=0.0)
    vocabulary = vocabularies.read(plain_tokens / "vocab.csv")
    parts = run.build(config, vocabulary)
    params = parts.init(jax.random.key(0))
    head = parts.objective.head()
    told, windows = {}, {}
    for most in (1, 8):
        settings, part = opened(plain_tokens, asked, 256, most, whole_visits=name == "visit_lstm")
        epoch = pipeline.plan_epoch(part, settings, seed=None)
        found = {}
        rows = len(epoch.plan)
        batch = pipeline.make_batch(part, epoch, settings, rows=range(rows), batch_size=rows, index=0)
        outputs = parts.model.apply({"params": params["model"]}, run.select(batch, parts.fields), deterministic=True)
        apply = lambda p, *inputs: head.apply({"params": p}, *inputs)  # noqa: E731
        device = run.select(batch, parts.fields)
        scores = np.asarray(parts.objective.scores(apply, params["head"], outputs, device))
        for row in range(rows):
            for t in np.flatnonzero(batch["weights"][row]):
                anchor = batch["label_anchors"][row, t]
                segment = batch["segment_ids"][row, anchor]
                who = int(batch["subject_id"][row, segment - 1])
                found[who, int(batch["times"][row, anchor])] = scores[row, t, 0]
        told[most] = found
        windows[most] = len(part)
    assert told[1].keys() == told[8].keys() and len(told[1]) > 300 and windows[8] < windows[1]
    np.testing.assert_allclose([told[8][key] for key in told[1]], list(told[1].values()), atol=2e-5)


def test_models_that_see_later_tokens_are_refused():
    for name, pooling, message in (
        ("behrt", "last", "the past"),
        ("visit_lstm", "last", "whole_visits"),
        ("gpt2", "mean", "pooling"),
        ("gpt2", "last", None),
    ):
        config = configs.to_dict(configs._parse([f"--config=configs/{name}.py:smoke"]))
        config["objective"] = dict(name="classification", pooling=pooling, dropout=0.0)
        config["data"]["labels_per_window"] = 4
        parts = run.build(config, vocabularies.smallest())
        if message is None:
            targets.check_sharing(config, parts.model)
        else:
            with pytest.raises(InputError, match=message):
                targets.check_sharing(config, parts.model)


def test_the_target_is_that_of_single_windows(toy_tokens, asked):
    _, alone = opened(toy_tokens, asked, 64, 1)
    _, part = opened(toy_tokens, asked, 64, 8)
    assert labelled.describe(part, labelled.Target("yes_no"), "train").startswith(f"train: {len(alone):,} labels in")
