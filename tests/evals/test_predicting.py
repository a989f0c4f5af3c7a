"""What an opened run says of labels: alone, and where those of one subject share a window."""

from __future__ import annotations

from dataclasses import replace

import jax
import numpy as np
import pytest

from ehrjax.core import config as configs
from ehrjax.data import labelled, token_dataset
from ehrjax.evals import packed, predicting
from ehrjax.ingest.labels import reading
from ehrjax.training import run
from ehrjax.vocab import vocabulary as vocabularies

CONTEXT = 128
TARGET = labelled.Target("yes_no")


@pytest.fixture(scope="module")
def opened(request, toy_tokens, tmp_path_factory):
    """A model with random parameters, and the labels of train; some histories are longer than the context."""
    config = configs.to_dict(configs._parse([f"--config=configs/{request.param}.py:smoke"]))
    config["data"] |= {"context_length": CONTEXT, "labels_per_window": 1, "whole_visits": request.param == "fading"}
    if "max_positions" in config["model"]:
        config["model"]["max_positions"] = CONTEXT
    pooling = "mean" if request.param == "behrt" else "last"
    config["objective"] = dict(name="classification", pooling=pooling, dropout=0.0, prediction_time=True)
    vocabulary = vocabularies.read(toy_tokens / "vocab.csv")
    parts = run.build(config, vocabulary)
    folder = tmp_path_factory.mktemp("run")
    (folder / predicting.TARGET_FILE).write_text('{"kind": "yes_no", "names": []}')
    return run.Run(folder, config, vocabulary, parts.init(jax.random.key(0)), 0, parts)


@pytest.fixture(scope="module")
def part(toy_tokens, toy_labels):
    split = token_dataset.open_tokens(toy_tokens).split("train")
    labels = reading.read_labels(str(toy_labels))
    return labelled.join(split, labels, TARGET, context_length=CONTEXT, where="")


@pytest.mark.parametrize("opened", ["gpt2", "fading"], indirect=True)
def test_labels_that_share_a_window_are_predicted_as_alone(opened, part):
    alone = predicting.predict(opened, part, TARGET, "task")
    data = {**opened.config["data"], "labels_per_window": 8}
    shared = predicting.predict(replace(opened, config={**opened.config, "data": data}), part, TARGET, "task")
    joined = predicting._numbered(part, True, whole_visits=data["whole_visits"])
    assert len(joined.windows) < 0.9 * len(part.windows)
    assert shared.keys.equals(alone.keys) and np.ptp(alone.values) > 1e-3
    np.testing.assert_allclose(shared.values, alone.values, atol=2e-5)


@pytest.mark.parametrize("opened", ["gpt2", "fading", "behrt"], indirect=True)
def test_vectors_are_those_of_each_window_alone(opened, part):
    """With what the model knows beside its hidden state, if it tells."""
    found = predicting.vectors(opened, part, ("mean", "last"))
    tokens = opened.vocabulary.num_specials
    for at, (subject, start, stop) in list(enumerate(predicting.content_of(part)))[::17]:
        batch, _ = next(packed.batches(opened, [(subject, start, stop)], 1))
        seen = np.concatenate([subject.tokens[: subject.num_static], subject.tokens[start:stop]])
        states = np.asarray(opened.states(batch))[0, : len(seen)]
        np.testing.assert_allclose(found["last"][at], states[-1], atol=1e-4)
        np.testing.assert_allclose(found["mean"][at], states[seen >= tokens].mean(axis=0), atol=1e-4)
        hidden = np.asarray(opened.encode(batch))[0, : len(seen)]
        np.testing.assert_allclose(states[:, : hidden.shape[1]], hidden, atol=1e-5)
    wider = found["last"].shape[1] > hidden.shape[1]
    assert wider == (opened.config["model"]["name"] == "fading")


def test_when_a_label_is_asked(part):
    when = predicting.moments(part)
    for at in (0, len(part.labels) // 2, -1):
        place, stop = int(part.windows.subject[at]), int(part.stops[at])
        subject, time = part.subject(place), int(part.prediction_times[at])
        years = 0.0 if subject.birth_time is None else (time - subject.birth_time) / (365.25 * 86400e6)
        days = (time - int(subject.times[stop - 1])) / 86400e6
        np.testing.assert_allclose(when[at], [years, np.log1p(days)], rtol=1e-5)
    assert when[:, 1].max() > np.log1p(365) and when[:, 0].max() > 20
