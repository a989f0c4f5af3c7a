"""The true probabilities: calibrated on the standard process, and equal to enumeration on a tiny one."""

from __future__ import annotations

import datetime
import itertools

import numpy as np
import polars as pl
import pytest

from ehrjax.core.errors import InputError
from ehrjax.ingest import synthetic
from ehrjax.ingest.synthetic import clock, filtering, lives, process, record
from ehrjax.ingest.synthetic.evidence import SPAN, read_evidence
from ehrjax.ingest.synthetic.process import DEATH, GROUP_OF, GROUP_PROFILE, GROUPS
from ehrjax.ingest.synthetic.reasons import DETECTION, FOLLOW_UP, INPATIENT, REASONS


@pytest.fixture(scope="module")
def hospital():
    events = pl.concat(synthetic.simulate(1200, seed=5))
    labels = {task: synthetic.labels(events, task) for task in synthetic.TASKS}
    return events, labels, synthetic.all_true_probabilities(events, labels)


@pytest.mark.parametrize("task", synthetic.TASKS)
def test_binned_probabilities_match_observed_rates(hospital, task):
    """Horizons of one subject never overlap, so the errors are uncorrelated and the binomial error holds."""
    _, labels, probability = hospital
    outcome, p = labels[task]["boolean_value"].to_numpy(), probability[task]
    assert len(p) > 1000 and 0 < outcome.mean() < 1
    # Bins of equal expected variance: a bin of tiny probabilities alone would not be near normal.
    order = np.argsort(p)
    spread = np.cumsum((p * (1 - p))[order])
    bins = np.minimum((spread / spread[-1] * 10).astype(int), 9)
    z = [(outcome - p)[order][bins == b].sum() / np.sqrt((p * (1 - p))[order][bins == b].sum()) for b in range(10)]
    assert np.abs(z).max() < 3.5, z
    assert np.sum(np.square(z)) < 29.6, z  # chi-squared with 10 degrees of freedom, upper 0.1 %


def test_the_oracle_beats_counting_codes(hospital):
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score

    events, labels, probability = hospital
    task = "readmission_30d"
    frame = labels[task].with_row_index("row")
    events = events.with_columns(pl.col("code").rank("dense").alias("column"))
    counts = (
        frame.select("row", "subject_id", "prediction_time")
        .join(events.select("subject_id", "time", "column"), on="subject_id")
        .filter(pl.col("time").is_null() | (pl.col("time") <= pl.col("prediction_time")))
        .group_by("row", "column")
        .len()
    )
    x = np.zeros((len(frame), int(events["column"].max()) + 1), np.float32)
    x[counts["row"].to_numpy(), counts["column"].to_numpy()] = np.log1p(counts["len"].to_numpy())
    y = frame["boolean_value"].to_numpy()
    train = frame["subject_id"].to_numpy() % 2 == 0
    model = LogisticRegression(C=0.01, max_iter=500).fit(x[train], y[train])
    baseline = roc_auc_score(y[~train], model.decision_function(x[~train]))
    oracle = roc_auc_score(y[~train], probability[task][~train])
    assert oracle > baseline + 0.03, (oracle, baseline)


@pytest.mark.parametrize("task", synthetic.TASKS)
def test_the_future_changes_nothing(hospital, task):
    events, labels, probability = hospital
    for row in (0, len(labels[task]) // 2):
        subject, time, _ = labels[task].row(row)
        history = events.filter(pl.col("subject_id") == subject)
        past = history.filter(pl.col("time").is_null() | (pl.col("time") <= time))
        future = events.filter((pl.col("subject_id") == subject + 1) & (pl.col("time") > time))
        changed = pl.concat([past, future.with_columns(subject_id=pl.lit(subject, pl.Int64))])
        for given in (past, history, changed):
            assert synthetic.true_probability(given, time, task) == pytest.approx(probability[task][row], rel=1e-4)


def test_labels_follow_the_calendar(hospital):
    events, labels, _ = hospital
    end = clock.EPOCH + datetime.timedelta(seconds=clock.END)
    for task, frame in labels.items():
        horizon = datetime.timedelta(seconds=synthetic.TASKS[task].horizon)
        assert frame["prediction_time"].max() + horizon <= end
        for subject, time, outcome in frame.sample(25, seed=1).iter_rows():
            own = events.filter(pl.col("subject_id") == subject)
            within = own.filter((pl.col("time") > time) & (pl.col("time") <= time + horizon))["code"]
            expected = {
                "readmission_30d": (within == "ENCOUNTER//INPATIENT").any(),
                "death_1y": (within == "MEDS_DEATH").any(),
                "new_diabetes_1y": within.str.starts_with("ICD10CM//E11").any(),
                "new_heart_failure_1y": within.str.starts_with("ICD10CM//I50").any(),
            }[task]
            assert outcome == expected


def test_predictions_that_have_no_truth_are_refused(hospital):
    events, labels, _ = hospital
    subject, time, _ = labels["readmission_30d"].row(0)
    history = events.filter(pl.col("subject_id") == subject)
    with pytest.raises(InputError, match="discharge"):
        synthetic.true_probability(history, time + datetime.timedelta(days=1), "readmission_30d")
    with pytest.raises(InputError, match="before registration"):
        synthetic.true_probability(history, datetime.datetime(2007, 1, 1), "death_1y")
    with pytest.raises(InputError, match="no task"):
        synthetic.true_probability(history, time, "weather")
    with pytest.raises(InputError, match="registration"):
        synthetic.true_probability(history.filter(pl.col("code") != record.REGISTRATION), time, "death_1y")
    diagnosed = events.filter(pl.col("code") == "ICD10CM//E11.9").row(0, named=True)
    with pytest.raises(InputError, match="first diagnosis"):
        synthetic.true_probability(
            events.filter(pl.col("subject_id") == diagnosed["subject_id"]),
            diagnosed["time"],
            "new_diabetes_1y",
        )


# --- A tiny process, small enough to sum over every path of hidden states in plain Python ---


def _rate(tiny, group, state, age, sex):
    return tiny.rates[group, state] * tiny.rates_age[group, age, sex]


def _log_likelihood(tiny, history, state, start, stop, *, closed):
    """Log likelihood of what `history` holds from start to stop in one state, hour by hour."""
    events = [
        (int((time - clock.EPOCH).total_seconds()), code, value)
        for time, code, value in history.filter(pl.col("time") >= clock.EPOCH)
        .select("time", "code", "numeric_value")
        .iter_rows()
    ]
    birth = int((history.filter(pl.col("code") == "MEDS_BIRTH")["time"][0] - clock.EPOCH).total_seconds())
    sex = int("GENDER//M" in history["code"])
    month = int(clock.month_of(np.array(start)))
    age = max(int((clock.MONTH_STARTS[month] - birth) / 86400 // 365.25), 0)
    opens = {
        name: min((t for t, code, _ in events if code in mark.codes), default=np.inf)
        for name, mark in zip(["diabetes", "hypertension", "heart_failure", "kidney", "copd"], tiny.diagnoses)
    }
    stays = sorted((t, code) for t, code, _ in events if code == "ENCOUNTER//INPATIENT" or code.startswith("DISCHARGE"))
    total = 0.0
    cuts = {start, stop, *range(-(-start // 3600) * 3600, stop, 3600)}
    cuts |= {t + d for t, _, _ in events for d in (0, 20 * 3600, 30 * 86400)}
    cuts = sorted(t for t in cuts if start <= t <= stop)
    for a, b in zip(cuts, cuts[1:]):
        past = [(t, code) for t, code in stays if t <= a]
        inside = bool(past) and past[-1][1] == "ENCOUNTER//INPATIENT"
        hour = a % 86400 / 3600
        for group, (setting, condition) in enumerate(GROUPS):
            first, last = GROUP_PROFILE[group]
            if not first <= hour < last:
                continue
            if setting == DEATH:
                factor = 1.0
            elif setting == "discharge":
                factor = float(inside and a >= past[-1][0] + 20 * 3600)
            elif setting == DETECTION:
                factor = float(opens[condition] > a)
            elif inside:
                factor = 0.0
            elif setting == FOLLOW_UP:
                factor = float(opens[condition] <= a)
            elif setting == INPATIENT and past and a < past[-1][0] + 30 * 86400:
                factor = 1.2 + 0.45 * min((past[-1][0] - past[-2][0]) / 86400, 14)
            else:
                factor = 1.0
            share = (b - a) / 86400 * 24 / (last - first)
            total -= _rate(tiny, group, state, age, sex) * factor * share
    for t, code, value in events:
        if not (start <= t < stop or (closed and t == stop)):
            continue
        for index, reason in enumerate(REASONS):
            if code == f"REASON//{reason.name}":
                total += np.log(tiny.reason_rates[index, state])
        for mark in (*tiny.diagnoses, *tiny.drugs, tiny.disposition):
            if code in mark.codes:
                total += np.log(mark.probability[mark.level[state], mark.codes.index(code)])
        if code in tiny.disposition.codes:
            total += np.log(tiny.rates[GROUP_OF["discharge", None], state])
        for mark in tiny.labs:
            if code == mark.codes[0]:
                at = int(np.abs(mark.values - value).argmin())
                total += np.log(max(mark.probability[mark.level[state], at], 1e-30))
    return total


def _transition(tiny, age, sex):
    """[states, states] by the definition: each component in turn, given the others as they then are."""
    matrix = np.eye(tiny.states)
    for name in process.CHRONIC:
        one = np.eye(tiny.states)
        for state in range(tiny.states):
            up = tiny.advance[name][state] * tiny.advance_age[name][age, sex]
            if up:
                one[state, state] -= up
                one[state, state + tiny.stride(name)] += up
        matrix = matrix @ one
    one = np.zeros((tiny.states, tiny.states))
    for state in range(tiny.states):
        for new, chance in enumerate(tiny.activity[state]):
            one[state, state + (new - tiny.stage["activity"][state]) * tiny.stride("activity")] += chance
    return matrix @ one


def test_the_filter_equals_summing_over_every_path():
    tiny = process.build((2, 1, 1, 1, 2, 1, 1))
    assert tiny.states == 4
    rng = lives.generator(3, 0)
    drawn = lives.simulate_lives(tiny, rng, 300)
    events = record.record(tiny, rng, drawn, 1, 300)
    evidence = read_evidence(tiny, events)
    checked = 0
    # Subjects with a discharge soon after registration, asked some hours into the fifth month.
    for key in evidence.discharges:
        subject, discharged = divmod(int(key), SPAN)
        months = int(clock.month_of(np.array(evidence.entry[subject]))) + np.arange(5)
        time = int(clock.MONTH_STARTS[months[-1]]) + 12 * 86400 + 40_000
        if not (discharged < time < min(evidence.death[subject], clock.END)) or checked == 3:
            continue
        checked += 1
        history = events.filter(pl.col("subject_id") == subject + 1)
        birth, sex, entry = evidence.birth[subject], evidence.sex[subject], int(evidence.entry[subject])
        ages = [max(int((clock.MONTH_STARTS[m] - birth) / 86400 // 365.25), 0) for m in months]
        edges = [entry, *clock.MONTH_STARTS[months[1:]].tolist(), time]
        log = np.array(
            [
                [_log_likelihood(tiny, history, state, a, b, closed=b == time) for state in range(tiny.states)]
                for a, b in zip(edges, edges[1:])
            ]
        )
        posterior = np.zeros(tiny.states)
        shift = log.max(1).sum()
        for path in itertools.product(range(tiny.states), repeat=len(months)):
            weight = tiny.initial[ages[0], sex, path[0]]
            for i, (before, after) in enumerate(zip(path, path[1:])):
                weight *= _transition(tiny, ages[i], sex)[before, after]
            posterior[path[-1]] += weight * np.exp(sum(log[i, s] for i, s in enumerate(path)) - shift)
        posterior /= posterior.sum()
        belief = filtering.beliefs(tiny, evidence, np.array([subject]), np.array([time]))[0]
        np.testing.assert_allclose(belief, posterior, rtol=2e-3, atol=1e-6)
    assert checked == 3


@pytest.mark.parametrize("group", [(DEATH, None), (DETECTION, "diabetes"), (INPATIENT, None)])
def test_outcome_probability_equals_small_steps(group):
    """Against death and changing states, products over ten minutes at a time give the same probability."""
    tiny = process.build((2, 1, 1, 1, 2, 1, 1))
    column, death, sex = GROUP_OF[group], GROUP_OF[DEATH, None], 1
    time, horizon = int(clock.MONTH_STARTS[30]) + 17 * 86400 + 33_333, 75 * 86400
    birth = time - 70 * 365 * 86400
    start = np.array([0.4, 0.3, 0.2, 0.1])
    alive, happened, step = start.copy(), 0.0, 600
    for now in range(time, time + horizon, step):
        width = min(step, time + horizon - now)
        month = int(clock.month_of(np.array(now)))
        previous = int(clock.month_of(np.array(now - step)))
        age = int(clock.age_years(np.array(month), np.array(birth)))
        if now != time and month != previous:
            before = int(clock.age_years(np.array(previous), np.array(birth)))
            alive = alive @ _transition(tiny, before, sex)
        first, last = GROUP_PROFILE[column]
        is_open = first <= (now + width / 2) % 86400 / 3600 < last
        rate = _rate(tiny, column, slice(None), age, sex) * 2.5 * is_open * 24 / (last - first) * width / 86400
        dying = _rate(tiny, death, slice(None), age, sex) * width / 86400 * (column != death)
        if column == death:
            rate = rate / 2.5
        happened += (alive * rate / np.maximum(rate + dying, 1e-30) * -np.expm1(-rate - dying)).sum()
        alive = alive * np.exp(-rate - dying)
    exact = filtering.outcome_probability(
        tiny,
        start[None].astype(np.float32),
        np.array([birth]),
        np.array([sex]),
        np.array([time]),
        horizon,
        column,
        np.array([1.0 if column == death else 2.5]),
    )
    assert exact[0] == pytest.approx(happened, rel=2e-3)
