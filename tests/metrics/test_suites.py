"""Tables of metrics: each number is its own function's, each interval its resamples', and no number is invented."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ehrjax.core.errors import InputError
from ehrjax.metrics import calibration, classes, codes, discrimination, regression, suites, survival, thresholds
from ehrjax.metrics.bootstrap import Resamples

SUBJECTS = np.repeat(np.arange(40), 3)[:110] * 7
EVERY = Resamples.of(np.arange(60) * 7, resamples=90, seed=3)
HORIZONS = (50.0, 120.0)


def made(kind: str) -> tuple[suites.Target, suites.Prediction, suites.Context | None]:
    rng = np.random.default_rng(1)
    n, names = len(SUBJECTS), ("a", "b", "c", "d")
    if kind == "yes_no":
        truth = rng.random(n) < 0.4
        p = np.round(np.clip(0.2 * truth + rng.random(n) * 0.8, 0.01, 0.99), 2)
        return suites.Target(kind, truth, SUBJECTS), suites.Prediction(p, threshold=0.45), None
    if kind == "classes":
        p = rng.dirichlet(np.ones(4), n)
        return suites.Target(kind, rng.integers(0, 4, n), SUBJECTS, names), suites.Prediction(p), None
    if kind == "codes":
        truth = rng.random((n, 4)) < 0.3
        return suites.Target(kind, truth, SUBJECTS, names), suites.Prediction(rng.random((n, 4))), None
    if kind == "number":
        truth = rng.normal(size=n)
        return suites.Target(kind, truth, SUBJECTS), suites.Prediction(truth + rng.normal(size=n)), None
    times, edges = rng.exponential(100, n), (0.0, 30.0, 60.0, 110.0, 900.0)
    truth = np.stack([times, rng.random(n) < 0.6], axis=1)
    context = suites.Context(
        np.append(rng.exponential(100, 300), 1e4), np.append(rng.random(300) < 0.6, False), HORIZONS
    )
    predicted = suites.Prediction(rng.normal(size=n) - times / 200, np.sort(rng.random((n, 5)))[:, ::-1], edges)
    return suites.Target(kind, truth, SUBJECTS), predicted, context


def expected(kind: str, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Every metric by its own function with row weights."""
    target, prediction, context = made(kind)
    truth, p = target.truth, prediction.values
    if kind == "yes_no":
        line = calibration.line(truth, p, weights)
        return thresholds.at(truth, p, 0.45, weights) | {
            "auroc": discrimination.auroc(truth, p, weights),
            "average_precision": discrimination.average_precision(truth, p, weights),
            "brier": calibration.brier(truth, p, weights),
            "log_loss": calibration.log_loss(truth, p, weights),
            "ece": calibration.expected_calibration_error(truth, p, weights),
            "calibration_slope": line.slope,
            "calibration_intercept": line.intercept,
            "sensitivity_at_90_specificity": discrimination.sensitivity_at_specificity(truth, p, weights, 0.9),
        }
    if kind == "classes":
        return classes.scores(truth, p, weights) | {"macro_auroc": classes.macro_auroc(truth, p, weights)}
    if kind == "codes":
        return codes.rankings(truth, p, weights) | codes.areas(truth, p, weights)
    if kind == "number":
        return regression.errors(truth, p, weights)
    rows, censoring = (truth[:, 0], truth[:, 1] > 0), survival.Censoring.of(context.train_times, context.train_events)
    aucs = survival.dynamic_aucs(*rows, p, censoring, HORIZONS, weights)
    edges = np.array(prediction.edges_days[:4])
    scores = survival.brier_scores(*rows, prediction.survival[:, :4], censoring, edges, weights)
    return {
        "harrell_c": survival.harrell_c(*rows, p, weights),
        "uno_c": survival.uno_c(*rows, p, censoring, 120.0, weights),
        "auc_50_days": aucs[:, 0],
        "auc_120_days": aucs[:, 1],
        "mean_auc": survival.mean_dynamic_auc(aucs, *rows, HORIZONS, weights),
        "integrated_brier": survival.integrated_brier(scores, edges),
    }


@pytest.mark.parametrize("kind", list(suites.METRICS))
def test_values_and_draws_are_those_of_the_functions(kind: str) -> None:
    target, prediction, context = made(kind)
    found = suites.measure(target, prediction, EVERY, context=context, level=0.8)
    assert list(found) == [metric.name for metric in suites.metrics(kind, context)]
    places = np.searchsorted(EVERY.subjects, SUBJECTS)
    whole = expected(kind, np.ones((1, len(SUBJECTS))))
    for name, draws in expected(kind, EVERY.counts[:, places]).items():
        one = found[name]
        assert one.value == pytest.approx(whole[name][0], abs=1e-9)
        np.testing.assert_allclose(one.draws, draws, rtol=0, atol=1e-9, err_msg=name)
        np.testing.assert_allclose([one.low, one.high], np.quantile(draws, [0.1, 0.9]), rtol=0, atol=1e-9)
        assert json.loads(json.dumps(one.as_dict()))["value"] == one.value
    assert set(expected(kind, np.ones((1, len(SUBJECTS))))) == set(found)


def test_the_auc_at_a_horizon_is_by_the_risk_up_to_it_where_survival_is_told() -> None:
    # Who has the event first is told apart by 30 days, and turned round by the last edge.
    target = suites.Target("time", np.array([[10.0, 1], [200.0, 1], [400.0, 0]]), np.arange(3))
    survived = np.array([[0.5, 0.4], [0.99, 0.3], [0.9, 0.8]])
    prediction = suites.Prediction(1 - survived[:, 1], survived, (30.0, 300.0))
    context = suites.Context(np.array([10.0, 200, 400]), np.array([True, True, False]), (30.0, 300.0))
    found = suites.measure(target, prediction, Resamples.of(np.arange(3), resamples=10, seed=0), context=context)
    assert found["auc_30_days"].value == 1.0 and found["auc_300_days"].value == 1.0
    one = suites.Prediction(1 - survived[:, 1])
    found = suites.measure(target, one, Resamples.of(np.arange(3), resamples=10, seed=0), context=context)
    assert found["auc_30_days"].value == 0.5


@pytest.mark.parametrize("kind", list(suites.METRICS))
def test_metrics_are_told_to_people(kind: str) -> None:
    told = suites.METRICS[kind]
    assert len({m.name for m in told}) == len({m.label for m in told}) == len(told)
    assert all(m.explanation.endswith(".") and len(m.explanation) < 90 for m in told)
    with pytest.raises(InputError, match="yes_no"):
        suites.metrics("other")


@pytest.mark.parametrize("kind", list(suites.METRICS))
def test_no_rows_and_one_subject(kind: str) -> None:
    target, prediction, context = made(kind)
    survive, edges = prediction.survival, prediction.edges_days

    def only(rows: slice) -> dict[str, suites.Measure]:
        some = suites.Target(kind, target.truth[rows], SUBJECTS[rows], target.names)
        said = suites.Prediction(prediction.values[rows], None if survive is None else survive[rows], edges)
        return suites.measure(some, said, EVERY, context=context)

    for one in only(slice(0, 0)).values():
        assert one.reason == "no rows" and one.as_dict()["value"] is None and one.subjects == 0
    for name, one in only(slice(0, 3)).items():
        assert one.low is None and one.high is None and one.reason and np.isnan(one.draws).all(), name
        assert np.isnan(one.value) or one.reason == "one subject"


def yes_no(truth: list[bool], p: list[float], resamples: int = 200) -> dict[str, suites.Measure]:
    subjects = np.arange(len(truth))
    target = suites.Target("yes_no", np.array(truth, bool), subjects)
    return suites.measure(target, suites.Prediction(np.array(p)), Resamples.of(subjects, resamples))


@pytest.mark.parametrize("only", [True, False])
def test_one_class(only: bool) -> None:
    found = yes_no([only] * 30, list(np.linspace(0.1, 0.9, 30)))
    ranks = [
        "auroc",
        "average_precision",
        "calibration_slope",
        "calibration_intercept",
        "sensitivity_at_90_specificity",
    ]
    for name in [*ranks, "specificity" if only else "sensitivity"]:
        assert np.isnan(found[name].value) and found[name].reason == "only one class", name
        assert found[name].low is None and np.isnan(found[name].draws).all()
    assert found["brier"].low < found["brier"].value < found["brier"].high and found["brier"].reason == ""


def test_equal_scores_and_separated_classes() -> None:
    truth = [True, False] * 20
    same = yes_no(truth, [0.3] * 40)
    assert same["auroc"].value == 0.5 and np.isnan(same["calibration_slope"].value)
    for name in ("auroc", "average_precision", "sensitivity_at_90_specificity", "calibration_slope"):
        assert same[name].reason == "all scores are equal", name
    assert same["brier"].reason == ""
    assert same["calibration_intercept"].value == pytest.approx(np.log(7 / 3))
    assert np.isnan(same["ppv"].value) and same["ppv"].reason == "nobody is predicted yes"
    perfect = yes_no(truth, [0.8 if yes else 0.2 for yes in truth])
    assert perfect["calibration_slope"].reason == "the scores separate the classes"
    assert perfect["auroc"].value == 1 and perfect["ece"].value == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("kind", "ranks"),
    [
        ("classes", ["macro_auroc"]),
        ("codes", ["macro_auroc", "macro_average_precision"]),
        ("time", ["harrell_c", "uno_c", "auc_50_days", "auc_120_days", "mean_auc"]),
    ],
)
def test_a_ranking_by_equal_scores_says_so(kind: str, ranks: list[str]) -> None:
    target, prediction, context = made(kind)
    for values, doubted in ((np.ones_like(prediction.values) * prediction.values[0], ranks), (prediction.values, [])):
        found = suites.measure(target, suites.Prediction(values), EVERY, context=context)
        assert {n for n, one in found.items() if one.reason == "all scores are equal"} == set(doubted)
        assert not any(np.isnan(found[name].value) for name in ranks)


def test_rare_classes_say_how_many_resamples_lack_them() -> None:
    found = yes_no([True] + [False] * 29, list(np.linspace(0.9, 0.1, 30)), 400)
    undefined = int(np.isnan(found["auroc"].draws).sum())
    assert 100 < undefined < 200 and found["auroc"].reason == f"undefined in {undefined} of 400 resamples"
    assert found["auroc"].low is not None
    # One subject with the outcome has a sensitivity, but says nothing of how it varies.
    assert found["sensitivity"].subjects == 1 and found["sensitivity"].low is None
    assert found["sensitivity"].reason == "one subject" and found["specificity"].subjects == 29


def test_an_interval_that_resampling_shifts_says_so() -> None:
    rng = np.random.default_rng(0)
    p = rng.uniform(0, 1, 4000)
    # Calibrated to the row, so that all the error of a resample is its own.
    order = np.argsort(p)
    truth = np.zeros(4000, bool)
    truth[order] = np.diff(np.floor(np.cumsum(p[order])), prepend=0.0) > 0
    found = yes_no(list(truth), list(p))["ece"]
    assert found.low > found.value and "leaves the value out" in found.reason


def test_constant_numbers_and_codes_without_rows() -> None:
    number = suites.Target("number", np.full(5, 2.0), np.arange(5))
    found = suites.measure(number, suites.Prediction(np.arange(5.0)), Resamples.of(np.arange(5), 20))
    assert found["r2"].reason == "all true values are equal" and found["mae"].reason == ""
    none = suites.Target("codes", np.zeros((5, 2), bool), np.arange(5), ("a", "b"))
    found = suites.measure(
        none, suites.Prediction(np.random.default_rng(0).random((5, 2))), Resamples.of(np.arange(5), 20)
    )
    assert found["recall_at_5"].reason == "no row has a code" and found["micro_auroc"].reason == "only one class"
    assert found["macro_auroc"].reason == "no code has both classes"
    single = suites.Target("classes", np.ones(5, int), np.arange(5), ("a", "b"))
    found = suites.measure(single, suites.Prediction(np.full((5, 2), 0.5)), Resamples.of(np.arange(5), 20))
    assert found["macro_auroc"].reason == "only one class" and found["accuracy"].value == 0


def test_times_without_what_they_need() -> None:
    target, prediction, context = made("time")

    def reasons(
        truth: np.ndarray, context: suites.Context | None, said: suites.Prediction = prediction
    ) -> dict[str, str]:
        found = suites.measure(suites.Target("time", truth, SUBJECTS), said, EVERY, context=context)
        assert all(one.reason for one in found.values() if np.isnan(one.value))
        return {name: one.reason for name, one in found.items() if np.isnan(one.value)}

    assert set(reasons(target.truth, None).values()) == {"no follow-up of train is given"}
    assert "harrell_c" not in reasons(target.truth, None)
    nobody = suites.Context(np.zeros(0), np.zeros(0, bool), HORIZONS)
    assert reasons(target.truth, nobody)["auc_50_days"] == "no follow-up of train is given"
    never = reasons(target.truth * [1, 0], context)
    assert never["harrell_c"] == never["uno_c"] == "no events" and never["auc_50_days"] == "no events by then"
    assert never["mean_auc"] == "the AUC at a horizon is undefined: no events by then"
    short = suites.Context(np.array([10.0, 20.0]), np.array([True, True]), HORIZONS)
    assert all("follow-up ends at 20 days" in reason for reason in reasons(target.truth, short).values())
    late = suites.Context(context.train_times, context.train_events, (50.0, 5000.0))
    assert reasons(target.truth, late)["auc_5000_days"] == "nobody is followed beyond the horizon"
    # The last edge, 900 days, is beyond everybody's follow-up.
    within = suites.measure(target, prediction, EVERY, context=late)["integrated_brier"].value
    assert target.truth[:, 0].max() < 900 and within == pytest.approx(
        expected("time", np.ones((1, len(SUBJECTS))))["integrated_brier"][0], abs=1e-9
    )
    # A group that is followed less long has none, instead of one over fewer edges.
    longer = suites.Context(context.train_times, context.train_events, (50.0, 5000.0), followed_days=1000.0)
    assert reasons(target.truth, longer)["integrated_brier"].startswith("nobody is followed beyond the last edge")
    early = suites.Context(context.train_times, context.train_events, (1e-9,))
    assert reasons(target.truth, early)["uno_c"] == "no events before the last horizon"
    assert reasons(target.truth, early)["integrated_brier"] == "fewer than two edges are within follow-up"
    gone = suites.Context(np.array([10.0, 20.0]), np.array([True, False]), HORIZONS)
    assert reasons(target.truth, gone)["integrated_brier"] == "all of train were censored by one of the edges"
    plain = suites.Prediction(prediction.values)
    assert reasons(target.truth, context, plain) == {"integrated_brier": "no survival is predicted"}


def test_differences_are_paired_by_resample() -> None:
    target, prediction, _ = made("yes_no")
    worse = suites.Prediction(np.random.default_rng(9).permutation(prediction.values), threshold=0.45)
    a, b = (suites.measure(target, said, EVERY)["auroc"] for said in (prediction, worse))
    found = suites.difference(a, b)
    assert found.value == a.value - b.value and found.higher_is_better is True and found.subjects == a.subjects
    np.testing.assert_array_equal(found.draws, a.draws - b.draws)
    np.testing.assert_allclose([found.low, found.high], np.quantile(a.draws - b.draws, [0.025, 0.975]))
    same = suites.difference(a, a)
    assert (same.value, same.low, same.high) == (0, 0, 0)
    fewer = suites.measure(target, prediction, Resamples.of(EVERY.subjects, 10))["auroc"]
    with pytest.raises(InputError, match="paired"):
        suites.difference(a, fewer)


def test_differences_without_a_value_keep_the_reason() -> None:
    truth = [True, False] * 5
    varied, same = yes_no(truth, list(np.linspace(0.9, 0.2, 10))), yes_no(truth, [0.3] * 10)
    assert not np.isnan(varied["calibration_slope"].value)
    for pair in ((varied, same), (same, varied)):
        found = suites.difference(*(m["calibration_slope"] for m in pair))
        assert np.isnan(found.value) and found.low is None and found.reason == "all scores are equal"


@pytest.mark.parametrize(
    ("target", "prediction", "message"),
    [
        (
            suites.Target("yes_no", np.ones(2, bool), np.arange(2)),
            suites.Prediction(np.ones(3)),
            "predictions of yes_no",
        ),
        (suites.Target("time", np.ones(2), np.arange(2)), suites.Prediction(np.ones(2)), "truth of time"),
        (suites.Target("number", np.ones(2), np.arange(2)), suites.Prediction(np.array([1, np.nan])), "NaN"),
        (suites.Target("classes", np.array([0, 2]), np.arange(2), ("a", "b")), suites.Prediction(np.eye(2)), "0 to 1"),
        (suites.Target("number", np.ones(1), np.array([77])), suites.Prediction(np.ones(1)), "subject 77"),
        (suites.Target("time", np.ones((2, 2)), np.arange(2)), suites.Prediction(np.ones(2), np.ones((2, 3))), "edge"),
    ],
)
def test_what_does_not_fit(target: suites.Target, prediction: suites.Prediction, message: str) -> None:
    with pytest.raises(InputError, match=message):
        suites.measure(target, prediction, Resamples.of(np.arange(4), 5))
