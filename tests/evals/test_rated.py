"""Risks without labels, against the rates of each window alone in plain Python."""

from __future__ import annotations

import math
from dataclasses import replace

import jax
import numpy as np
import pytest

from ehrjax.core import config as configs
from ehrjax.core.errors import InputError
from ehrjax.data import labelled, token_dataset
from ehrjax.evals import packed, predicting, rated
from ehrjax.ingest.labels import reading
from ehrjax.training import run
from ehrjax.vocab import events
from ehrjax.vocab import vocabulary as vocabularies

CONTEXT = 128
EDGES = (10.0, 60.0, 400.0)
TARGET = labelled.Target("yes_no")


def opened(name, tokens, folder, **objective):
    """A run of times to events with random parameters, rates of some a year."""
    config = configs.to_dict(configs._parse([f"--config=configs/time_to_events.py:{name}"]))
    config["data"] |= {"context_length": CONTEXT, "labels_per_window": 1}
    config["model"] |= {"num_layers": 1, "hidden_dim": 16}
    if "max_positions" in config["model"]:
        config["model"]["max_positions"] = CONTEXT
    config["objective"] |= {"edges_days": EDGES, "rank": 4, "codes": (), "groups": "", "firsts": (), **objective}
    vocabulary = vocabularies.read(tokens / "vocab.csv")
    parts = run.build(config, vocabulary)
    params = parts.init(jax.random.key(0))
    params["head"] = jax.tree.map(lambda x: x + 0.3 * jax.random.normal(jax.random.key(1), x.shape), params["head"])
    return run.Run(folder, config, vocabulary, jax.tree.map(np.asarray, params), 0, parts)


@pytest.fixture(scope="module", params=["fading", "decoder"])
def model(request, toy_tokens, tmp_path_factory):
    return opened(request.param, toy_tokens, tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def part(toy_tokens, toy_labels):
    split = token_dataset.open_tokens(toy_tokens).split("train")
    return labelled.join(split, reading.read_labels(str(toy_labels)), TARGET, context_length=CONTEXT, where="")


def expected(model, part, at: int, event: events.Event) -> float:
    """One label's risk: the rates of the event's codes at its last code, piece by piece."""
    subject, start, stop = predicting.content_of(part)[at]
    batch, _ = next(packed.batches(model, [(subject, start, stop)], 1))
    places = [*range(subject.num_static), *range(start, stop)]
    last = max(i for i, place in enumerate(places) if subject.tokens[place] >= model.vocabulary.num_specials)
    hidden = np.asarray(model.encode(batch), np.float64)[0, last]
    head = model.params["head"]
    pieces = (hidden @ head["pieces"]["kernel"] + head["pieces"]["bias"]).reshape(len(EDGES), -1)
    rates = np.exp(pieces @ head["codes"].T + head["bias"])
    silent = (int(part.prediction_times[at]) - int(subject.times[places[last]])) / 86400e6
    total, wanted = 0.0, np.flatnonzero(event.tokens) - model.vocabulary.num_specials
    for piece, (low, high) in enumerate(zip((0.0, *EDGES), (*EDGES[:-1], math.inf))):
        days = min(high, silent + event.horizon / 1440) - max(low, silent)
        total += max(days, 0.0) * rates[piece, wanted].sum()
    return 1 - math.exp(-total)


def test_risks_are_those_of_each_window_alone(model, part):
    for text in ("DX//1.*@30d", "DX//1.*@3y", "DX//2@1d"):
        event = events.within(text, model.vocabulary, events.NO_HORIZON, name="x", where="--zero_shot")
        found = rated.predict(model, part, event)
        assert found.keys.equals(predicting.keys_of(part)) and np.ptp(found.values) > 1e-4
        for at in range(0, len(part.labels), 23):
            assert found.values[at, 0] == pytest.approx(expected(model, part, at, event), rel=1e-4, abs=1e-6)


def test_longer_and_wider_is_likelier(model, part):
    def risks(text):
        event = events.within(text, model.vocabulary, events.NO_HORIZON, name="x", where="--zero_shot")
        return rated.predict(model, part, event).values

    assert (risks("DX//1@60d") > risks("DX//1@30d")).all() and (risks("DX//1.*@30d") > risks("DX//1@30d")).all()


def test_what_a_run_does_not_know_is_refused(toy_tokens, tmp_path):
    vocabulary = vocabularies.read(toy_tokens / "vocab.csv")
    every = events.within("DX//1.*@30d", vocabulary, events.NO_HORIZON, name="x", where="")
    one = events.within("DX//1@30d", vocabulary, events.NO_HORIZON, name="x", where="")
    grouped = opened("fading", toy_tokens, tmp_path, groups=r"DX//\d")
    rated.check("run", grouped, every)
    with pytest.raises(InputError, match="only as one code"):
        rated.check("run", grouped, one)
    with pytest.raises(InputError, match="no time within"):
        rated.check("run", grouped, replace(every, horizon=events.NO_HORIZON))
    with pytest.raises(InputError, match="not asked when DX//1"):
        rated.check("run", opened("fading", toy_tokens, tmp_path, codes=("LAB//",)), every)
    plain = replace(grouped, parts=replace(grouped.parts, objective=object()))
    with pytest.raises(InputError, match="ehrjax.generate"):
        rated.check("run", plain, every)
