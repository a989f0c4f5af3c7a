"""When a label is predicted: what a head is told of it, and that training and prediction tell it the same."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ehrjax.core import config as configs
from ehrjax.data import labelled, pipeline, token_dataset
from ehrjax.evals import packed, predicting
from ehrjax.ingest.labels import reading
from ehrjax.objectives import classification, moments
from ehrjax.training import run
from ehrjax.vocab import vocabulary as vocabularies

DAY = 1440


def test_ages_and_silences_are_mixtures_of_their_knots():
    ages = jnp.asarray([[40.0, 44.0, jnp.nan, 130.0]])
    batch = {
        "ages": ages,
        "anchors": jnp.asarray([[3]]),
        "label_anchors": jnp.asarray([[0, 1, 2, 3, -1]]),
        "label_gaps": jnp.asarray([[0, 365 * DAY, 7 * DAY, 4_000 * DAY, 0]]),
    }
    found = np.asarray(moments.features(batch))
    age, gap = found[0, :, : len(moments.AGES)], found[0, :, len(moments.AGES) :]
    assert age[0, moments.AGES.index(40)] == 1 and age[0].sum() == 1
    # A year of silence later the age is 44.999: half-way to 50.
    np.testing.assert_allclose(age[1] @ moments.AGES, 44 + 365 / 365.25, atol=1e-4)
    assert np.count_nonzero(age[1]) == 2
    assert not age[2].any()
    assert age[3, -1] == 1
    for place, days in ((0, 0), (1, 365), (2, 7), (3, 3650)):
        assert gap[place, moments.GAPS.index(days)] == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(gap.sum(-1), 1, atol=1e-6)
    # Without labels the last token of each window is where it is predicted, at once.
    plain = np.asarray(moments.features({"ages": ages, "anchors": batch["anchors"]}))
    assert plain.shape == (1, 1, moments.COUNT)
    np.testing.assert_array_equal(plain[0, 0, len(moments.AGES) :], np.eye(len(moments.GAPS))[0])


@pytest.mark.parametrize("shared", [1, 8])
def test_training_and_prediction_know_the_same_moment(toy_tokens, toy_labels, tmp_path, shared):
    config = configs.to_dict(configs._parse(["--config=configs/gpt2.py:smoke"]))
    config["data"]["context_length"] = config["model"]["max_positions"] = 256
    config["objective"] = dict(name="classification", pooling="last", dropout=0.0, prediction_time=True)
    vocabulary = vocabularies.read(toy_tokens / "vocab.csv")
    parts = run.build(config, vocabulary)
    params = parts.init(jax.random.key(0))
    opened = run.Run(tmp_path, config, vocabulary, params, 0, parts)
    dataset = token_dataset.open_tokens(toy_tokens)
    settings = pipeline.Settings(
        str(toy_tokens), context_length=256, max_segments=8, labels=str(toy_labels), labels_per_window=shared
    )
    part = pipeline.open_split(dataset, "train", settings)
    epoch = pipeline.plan_epoch(part, settings, seed=None)
    batch = pipeline.make_batch(part, epoch, settings, rows=range(len(epoch.plan)), batch_size=len(epoch.plan), index=0)
    rows, places = np.nonzero(batch["weights"])
    anchors = batch["label_anchors"][rows, places]
    owner = batch["subject_id"][rows, batch["segment_ids"][rows, anchors] - 1]
    keys = zip(owner.tolist(), batch["times"][rows, anchors].tolist(), batch["label_gaps"][rows, places].tolist())
    told = dict(zip(keys, np.asarray(opened.predictions(batch)["probabilities"])[rows, places, 0].tolist()))
    # Each label by itself: whose it is, its last token, and the whole minutes from there to its own time.
    labels = reading.read_labels(str(toy_labels))
    alone = labelled.join(dataset.split("train"), labels, labelled.Target("yes_no"), context_length=256, where="")
    content, times = predicting.content_of(alone), alone.prediction_times
    last = [int(subject.times[stop - 1]) for subject, _, stop in content]
    gaps = [(int(time) - before) // 60_000_000 for time, before in zip(times, last)]
    found = predicting.outputs(opened, content, packed.whole(content, times), "probabilities")[:, 0]
    expected = dict(zip(zip([subject.subject_id for subject, _, _ in content], last, gaps), found.tolist()))
    assert told.keys() == expected.keys() and len(told) > 300 and max(gaps) > 365 * DAY
    np.testing.assert_allclose([told[key] for key in expected], list(expected.values()), atol=2e-5)
    # The time does matter, and at the last token itself it is no gap.
    at_once = predicting.outputs(opened, content, packed.whole(content, np.array(last)), "probabilities")[:, 0]
    assert np.abs(found - at_once).max() > 1e-3


def test_without_the_setting_a_head_is_as_it_was():
    plain = classification.Objective(classification.Config(), vocab_size=9, num_specials=5, mask_id=4)
    timed = classification.Objective(
        classification.Config(prediction_time=True), vocab_size=9, num_specials=5, mask_id=4
    )
    x = jnp.zeros((1, 1, 6))
    shapes = [jax.tree.map(jnp.shape, o.head().init(jax.random.key(0), x, None)["params"]) for o in (plain, timed)]
    assert shapes[0]["transform"]["kernel"] == (6, 6)
    assert shapes[1]["transform"]["kernel"] == (6 + moments.COUNT, 6)
