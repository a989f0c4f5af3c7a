"""Models side by side: thresholds from tuning, paired differences, groups, and what goes beyond the best possible."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import f1_score, precision_recall_curve, roc_auc_score

from ehrjax.core.errors import InputError
from ehrjax.data.labelled import Target
from ehrjax.evals import comparing, entries, evaluation_cells, evaluation_page, judged
from ehrjax.evals.comparing import Entry
from ehrjax.evals.prediction_files import Predictions
from ehrjax.metrics import calibration, thresholds
from ehrjax.metrics.bootstrap import Resamples

ROWS = 1200


def predictions(values: np.ndarray, truth: np.ndarray, subjects: np.ndarray) -> Predictions:
    keys = pl.DataFrame({"subject_id": subjects, "prediction_time": np.arange(len(truth)) * 10**6})
    keys = keys.with_columns(pl.col("prediction_time").cast(pl.Datetime("us")))
    given = np.asarray(values, np.float32)[:, None]
    return Predictions(Target("yes_no"), keys, truth.astype(np.float32)[:, None], given)


@pytest.fixture(scope="module")
def made():
    """Known probabilities, a noisy view of them, a noisier one, and one that has seen the answers."""
    rng = np.random.default_rng(0)

    def split(seed):
        own = np.random.default_rng(seed)
        logit = own.normal(-1, 1.5, ROWS)
        probability = 1 / (1 + np.exp(-logit))
        truth = own.random(ROWS) < probability
        noise = lambda sd: 1 / (1 + np.exp(-(logit + own.normal(0, sd, ROWS))))  # noqa: E731
        subjects = np.sort(own.integers(0, 400, ROWS))
        views = {"oracle": probability, "good": noise(0.5), "counts_lr": noise(1.5)}
        views["leaky"] = np.where(truth, 0.6, 0.4) + 0.3 * (probability - 0.5)
        return {name: predictions(values, truth, subjects) for name, values in views.items()}

    held, tuning = split(1), split(2)
    roles = {"oracle": "oracle", "counts_lr": "baseline"}
    listed = [Entry(n, n, roles.get(n, "model"), held[n], tuning[n]) for n in ("counts_lr", "good", "leaky", "oracle")]
    groups = {
        "half": np.where(np.arange(ROWS) < ROWS // 2, "a", "b"),
        "odd": np.where(np.arange(ROWS) < 12, "few", "most"),
    }
    return listed, comparing.compare(listed, reference="counts_lr", groups=groups, resamples=300), rng


def test_the_threshold_is_of_the_best_f1_on_tuning(made):
    listed, result, _ = made
    for entry, model in zip(listed, result["models"]):
        truth, values = entry.tuning.truth[:, 0] > 0, entry.tuning.values[:, 0].astype(np.float64)
        precision, recall, _ = precision_recall_curve(truth, values)
        best = np.max(2 * precision * recall / np.maximum(precision + recall, 1e-12))
        assert f1_score(truth, values >= model["threshold"]) == pytest.approx(best)
        held, said = entry.held_out.truth[:, 0] > 0, entry.held_out.values[:, 0] >= np.float32(model["threshold"])
        assert model["metrics"]["f1"]["value"] == pytest.approx(f1_score(held, said), abs=1e-9)


def test_differences_are_paired(made):
    listed, result, _ = made
    found = result["differences"]["good"]["auroc"]
    first, second = (
        roc_auc_score(e.held_out.truth[:, 0], e.held_out.values[:, 0].astype(float)) for e in (listed[1], listed[0])
    )
    assert found["value"] == pytest.approx(first - second) and found["low"] > 0
    apart = [m["metrics"]["auroc"] for m in result["models"][:2]]
    # The two share most of their noise: the difference is known better than either.
    assert found["high"] - found["low"] < 0.9 * sum(m["high"] - m["low"] for m in apart)


def test_the_share_of_the_gap_and_the_leak(made):
    _, result, _ = made
    told = result["oracle"]
    assert told["worth_telling"] and set(told["models"]) == {"counts_lr", "good", "leaky"}
    closed = told["models"]["good"]["closed"]
    values = {m["name"]: m["metrics"]["auroc"]["value"] for m in result["models"]}
    expected = (values["good"] - values["counts_lr"]) / (values["oracle"] - values["counts_lr"])
    assert closed["value"] == pytest.approx(expected) and closed["low"] < expected < closed["high"] and expected < 1
    assert not told["models"]["good"]["leak"] and told["models"]["leaky"]["leak"]
    page = evaluation_page.make(
        {"task": "t", "split": "held_out", "warnings": [], "result": result, "about": {}, "settings": {}}
    ).render()
    assert "leaky is better than the best possible beyond its interval" in page


def test_of_few_with_the_rarer_answer_no_leak_is_told(made):
    listed, _, _ = made
    truth, subjects = listed[0].held_out.truth[:, 0] > 0, listed[0].held_out.keys["subject_id"].to_numpy()
    for many, told in ((8, False), (200, True)):
        kept = ~truth | np.isin(subjects, np.unique(subjects[truth])[:many])
        some = [
            dataclasses.replace(entry, held_out=comparing.subset(entry.held_out, np.flatnonzero(kept)))
            for entry in listed
        ]
        found = comparing.compare(some, reference="counts_lr", resamples=200)
        assert found["subjects_of_the_rarest_answer"] == min(many, len(np.unique(subjects[truth])))
        leaky = found["oracle"]["models"]["leaky"]
        assert leaky["beyond"]["low"] > 0 and leaky["leak"] == told
        about = {"task": "t", "split": "held_out", "warnings": [], "about": {}, "settings": {}}
        page = evaluation_page.make({**about, "result": found}).render()
        assert ("a leak cannot be told from chance" in page) != told


def test_a_leak_is_told_whatever_the_reference(made):
    listed, _, _ = made
    for reference in ("leaky", "oracle"):
        told = comparing.compare(listed, reference=reference, resamples=200)["oracle"]
        assert told["models"]["leaky"]["leak"] and not told["models"]["good"]["leak"]
        # There is no way to go from there to the best possible, so no share of it.
        assert not told["worth_telling"] and all(found["closed"] is None for found in told["models"].values())


def test_groups_have_sizes_and_small_ones_are_said_to_be_small(made):
    listed, result, _ = made
    half, odd = result["groups"]["half"], result["groups"]["odd"]
    assert half["a"]["labels"] == half["b"]["labels"] == ROWS // 2 and not half["a"]["too_small"]
    assert odd["few"]["too_small"] and not odd["most"]["too_small"]
    own = listed[1].held_out
    rows = np.arange(ROWS) < ROWS // 2
    expected = roc_auc_score(own.truth[rows, 0], own.values[rows, 0].astype(float))
    assert half["a"]["models"]["good"]["auroc"]["value"] == pytest.approx(expected)
    assert result["gaps"]["odd"]["good"] == {} and result["gaps"]["half"]["good"]["auroc"]["value"] >= 0
    both = [half[group]["models"]["good"]["brier"]["value"] for group in ("a", "b")]
    assert result["gaps"]["half"]["good"]["brier"]["value"] == pytest.approx(max(both) - min(both))
    assert "oracle" not in half["a"]["models"] and odd["few"]["models"] == {}


def test_answers_are_counted_by_subject_since_these_are_drawn():
    def rarest(kind, truth, subjects):
        own = dataclasses.replace(predictions(truth, truth, subjects), target=Target(kind), truth=np.float32(truth))
        return comparing.subjects_of_the_rarest_answer(own), comparing.group_size(own, np.arange(len(subjects)))

    # Fifteen yes of one subject are one who can be drawn.
    subjects, yes = np.repeat(np.arange(60), 15), np.repeat(np.arange(60) == 7, 15)[:, None]
    count, size = rarest("yes_no", yes, subjects)
    assert count == 1 and size["positives"] == 15 and size["subjects"] == 60 and size["too_small"]
    assert rarest("classes", np.where(yes, 2, subjects[:, None] % 2), subjects)[0] == 1
    assert rarest("time", np.hstack([1.0 + yes, yes]), subjects)[0] == 1
    count, size = rarest("number", yes, subjects)
    assert count is None and not size["too_small"]


def test_the_page_marks_numbers_that_are_in_doubt():
    # With one yes among sixty, a third of the resamples have none.
    truth, subjects = np.arange(60) == 3, np.arange(60)
    entry = Entry("m", "m", "model", predictions(np.linspace(0, 1, 60), truth, subjects))
    result = comparing.compare([entry], reference="m", resamples=50)
    reason = result["models"][0]["metrics"]["auroc"]["reason"]
    told = {"task": "t", "split": "held_out", "warnings": [], "result": result, "about": {}, "settings": {}}
    page = evaluation_page.make(told).render()
    assert "of 50 resamples" in reason and f'<sup title="{reason}">' in page and f"† {reason}" in page
    assert "Subjects with the rarer answer: only 1." in page
    several = [{"value": 0.5, "reason": f"undefined in {n} of 50 resamples"} for n in (7, 3, 5)]
    (note,) = evaluation_cells.reasons(
        [*several, {"value": None, "reason": "x"}, {"value": 0.5, "reason": "one subject"}]
    )
    assert note == '<p class="note">† one subject; undefined in 3 to 7 of 50 resamples.</p>'
    assert evaluation_cells.reasons([{"value": 0.5, "reason": ""}]) == []


def test_of_many_models_the_best_are_drawn_beside_what_they_are_compared_with(made):
    listed, *_ = made
    worst, good, best = listed[0], listed[1], listed[3]
    more = [
        dataclasses.replace(good, name=f"m{i}", label=f"m{i}", held_out=_mixed(good.held_out, i / 12))
        for i in range(11)
    ]
    result = comparing.compare([*more, worst, best], reference="counts_lr", resamples=20)
    kept, (note,) = evaluation_cells.drawn_of(result, result["models"])
    assert [m["name"] for m in kept] == [*(f"m{i}" for i in range(7)), "counts_lr", "oracle"]
    assert "Of 13 models 9 are drawn" in note and "m7, m8, m9, m10." in note
    told = {"task": "t", "split": "held_out", "warnings": [], "result": result, "about": {}, "settings": {}}
    assert note in evaluation_page.make(told).render()
    assert evaluation_cells.drawn_of(result, result["models"][:9]) == (result["models"][:9], [])


def _mixed(own: Predictions, share: float) -> Predictions:
    """Predictions that are chance by some share."""
    chance = np.random.default_rng(5).random(own.values.shape)
    return dataclasses.replace(own, values=((1 - share) * own.values + share * chance).astype(np.float32))


def test_recalibration_is_fitted_on_tuning_and_mends_it():
    rng = np.random.default_rng(5)

    def split(count):
        logit = rng.normal(0, 1, count)
        truth = rng.random(count) < 1 / (1 + np.exp(-logit))
        return predictions(1 / (1 + np.exp(-3 * logit)), truth, np.arange(count))  # three times too extreme

    entry = Entry("m", "m", "model", split(3000), split(3000))
    (model,) = comparing.compare([entry], reference="m", resamples=50)["models"]
    assert model["metrics"]["calibration_slope"]["value"] == pytest.approx(1 / 3, abs=0.05)
    told = model["recalibrated"]["temperature"]
    assert told["fitted"]["temperature"] == pytest.approx(3, rel=0.15)
    assert told["metrics"]["calibration_slope"]["value"] == pytest.approx(1, abs=0.12)
    assert model["recalibrated"]["isotonic"]["metrics"]["ece"]["value"] < model["metrics"]["ece"]["value"] / 2


def test_temperature_mends_probabilities_of_classes():
    rng = np.random.default_rng(6)

    def split(count, first):
        scores = rng.normal(0, 1, (count, 3))
        chance = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
        truth = np.array([rng.choice(3, p=row) for row in chance], np.float32)
        sharp = np.exp(2.5 * scores) / np.exp(2.5 * scores).sum(axis=1, keepdims=True)
        keys = predictions(truth, truth, first + np.arange(count)).keys
        return Predictions(Target("classes", ("a", "b", "c")), keys, truth[:, None], sharp.astype(np.float32))

    entry = Entry("m", "m", "model", split(2000, 0), split(2000, 5000))
    (model,) = comparing.compare([entry], reference="m", resamples=20)["models"]
    told = model["recalibrated"]["temperature"]
    assert told["fitted"]["temperature"] == pytest.approx(2.5, rel=0.15) and set(model["recalibrated"]) == {
        "temperature"
    }
    assert told["metrics"]["log_loss"]["value"] < model["metrics"]["log_loss"]["value"] - 0.05


def test_curves_have_intervals_over_resampled_subjects(made):
    own = next(entry for entry in made[0] if entry.name == "good").held_out
    target, values = comparing.as_target(own), own.values[:, 0].astype(np.float64)
    drawn = Resamples.of(target.subjects, resamples=60, seed=3)
    found = comparing.curves(target, values, drawn)
    counts = drawn.counts[:, drawn.places(target.subjects)].astype(float)
    benefit = thresholds.net_benefit(target.truth, values, np.array([0.1, 0.3]), counts).model
    at = [found["net_benefit"]["threshold"].index(t) for t in (0.1, 0.3)]
    expected = np.quantile(benefit, [0.025, 0.975], axis=0)
    np.testing.assert_allclose([np.take(found["net_benefit"][end], at) for end in ("low", "high")], expected, atol=1e-6)
    place = np.digitize(values, calibration.bin_edges(values, equal_mass=True)[1:-1])
    for bin in (0, 4, 9):
        here = counts[:, place == bin]
        shares = (here @ target.truth[place == bin]) / here.sum(axis=1)
        ends = [found["reliability"][end][bin] for end in ("low", "high")]
        np.testing.assert_allclose(ends, np.quantile(shares, [0.025, 0.975]), atol=1e-5)


def test_predictions_are_matched_by_key_not_by_place(made):
    listed, _, rng = made
    own, truth = listed[1].held_out, listed[0].held_out
    mixed = comparing.subset(own, rng.permutation(ROWS))
    found = judged.foreign(mixed, truth, "file", partial=False)
    assert found.keys.equals(truth.keys)
    np.testing.assert_array_equal(found.values, own.values)
    part = judged.foreign(comparing.subset(mixed, np.arange(700)), truth, "file", partial=True)
    (first, second) = entries.on_common_labels([listed[0], Entry("p", "p", "model", part)], truth.keys)
    assert first.held_out.keys.equals(second.held_out.keys) and len(second.held_out) == 700
    with pytest.raises(InputError, match="lacks predictions for 500 of"):
        judged.foreign(part, truth, "file", partial=False)


def test_one_class_has_no_number_but_a_reason():
    truth, subjects = np.zeros(80, bool), np.arange(80)
    entry = Entry("m", "m", "model", predictions(np.linspace(0, 1, 80), truth, subjects))
    result = comparing.compare([entry], reference="m", resamples=20)
    found = result["models"][0]["metrics"]["auroc"]
    assert found["value"] is None and found["reason"] == "only one class" and result["models"][0]["curves"] == {}
    told = {"task": "t", "split": "held_out", "warnings": [], "result": result, "about": {}, "settings": {}}
    assert "only one class" in evaluation_page.make(told).render()


def test_where_the_truth_is_not_told_there_is_no_best_possible(made):
    good = next(entry for entry in made[0] if entry.name == "good")

    def found(told: tuple[str, ...]):
        # Other subjects, as splits have.
        keys = good.tuning.keys.with_columns(pl.col("subject_id") + 10_000)
        parts = {"held_out": good.held_out, "tuning": dataclasses.replace(good.tuning, keys=keys)}
        frames = [
            part.keys.with_columns(
                pl.Series(
                    judged.TRUE_PROBABILITY, np.full(len(part), 0.3 if name in told else np.nan), nan_to_null=True
                )
            )
            for name, part in parts.items()
        ]
        labels = SimpleNamespace(name="task", frame=pl.concat(frames))
        return SimpleNamespace(labels=labels, target=Target("yes_no"), truth=parts, warnings=[])

    assert entries.oracle(found(()), "held_out") is None
    one = entries.oracle(found(("held_out",)), "held_out")
    assert len(one.held_out) == ROWS and one.tuning is None

    some = found(("held_out",))
    some.labels.frame = some.labels.frame.with_columns(
        pl.when(pl.int_range(pl.len()) > 2).then("true_probability").alias("true_probability")
    )
    assert entries.oracle(some, "held_out") is None and "3 labels have no true_probability" in some.warnings[0]
    some.labels.frame = some.labels.frame.with_columns(pl.col("true_probability") * 5)
    with pytest.raises(InputError, match="outside 0..1"):
        entries.oracle(some, "held_out")
