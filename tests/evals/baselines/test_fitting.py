"""The baselines find what was planted, choose by tuning alone, and fall back where there is nothing to learn."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy.optimize import approx_fprime
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import roc_auc_score

from ehrjax.core.errors import InputError
from ehrjax.data.labelled import Target
from ehrjax.evals.baselines import boosting, designs, fitting, linear
from ehrjax.evals.baselines.fitting import KINDS
from ehrjax.evals.baselines.outcomes import kaplan_meier, outcomes
from tests.evals.baselines import planted

LEARNED = [(kind, name) for kind in KINDS for name in fitting.baselines_for(kind) if name != fitting.MAJORITY]


@pytest.fixture(scope="module", autouse=True)
def few_trees():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(boosting, "_FIRST", 50)
        patch.setattr(boosting, "_MOST", 200)
        yield


@pytest.fixture(scope="module")
def found():
    return planted.features()


@pytest.fixture(scope="module")
def fitted(found):
    """Each baseline once, when it is first asked for."""
    cache = {}

    def get(kind: str, name: str) -> fitting.Fitted:
        if (kind, name) not in cache:
            cache[kind, name] = fitting.fit(name, found, planted.task(kind, found))
        return cache[kind, name]

    return get


def quality(kind: str, truth: np.ndarray, result: fitting.Fitted, rows: np.ndarray) -> float:
    """AUROC (of the mean over classes or codes), or correlation, of some of the predicted rows."""
    given = result.values[np.searchsorted(result.rows, rows)]
    if kind == "yes_no":
        return roc_auc_score(truth[rows, 0], given)
    if kind == "number":
        return np.corrcoef(truth[rows, 0], given)[0, 1]
    if kind == "classes":
        return np.mean([roc_auc_score(truth[rows, 0] == c, given[:, c]) for c in range(given.shape[1])])
    if kind == "codes":
        return np.mean([roc_auc_score(truth[rows, c], given[:, c]) for c in range(3)])
    # Those whose fate by the last edge is known.
    known = (truth[:, 1] > 0) | (truth[:, 0] >= planted.EDGES[-1])
    rows = rows[known[rows]]
    given = result.values[np.searchsorted(result.rows, rows)]
    return roc_auc_score((truth[rows, 1] > 0) & (truth[rows, 0] <= planted.EDGES[-1]), given)


@pytest.mark.parametrize(("kind", "name"), LEARNED)
def test_a_planted_signal_is_found(kind, name, found, fitted):
    task = planted.task(kind, found)
    result, rows = fitted(kind, name), planted.where(task, "held_out")
    assert result.name == name and np.array_equal(result.rows, task.predicted) and result.seconds > 0
    assert np.isfinite(result.values).all()
    if kind not in ("number",):
        assert ((result.values >= 0) & (result.values <= 1)).all()
    mine = quality(kind, task.values, result, rows)
    if kind == "codes":
        assert mine > (0.68 if name != fitting.AGE_SEX else 0.4)
        return
    score = planted.score(found)
    names = len(task.target.names)
    columns = np.stack([-score, -np.abs(score), score], axis=1) if kind == "classes" else score
    assert columns.shape[-1] == names or kind != "classes"
    best = quality(kind, task.values, dataclasses.replace(result, values=columns[result.rows]), rows)
    if name == fitting.AGE_SEX:
        assert 0.2 < mine < best - 0.05 if kind == "number" else 0.55 < mine < best - 0.05
    else:
        assert best - (0.04 if name == fitting.COUNTS_GBM else 0.02) < mine
    if kind == "classes":
        assert result.values.sum(axis=1) == pytest.approx(1)
    if kind == "time":
        assert result.survival.shape == (len(result.rows), 3) and result.edges_days == planted.EDGES
        assert (np.diff(result.survival, axis=1) <= 0).all()
        assert result.values == pytest.approx(1 - result.survival[:, -1])
        # Calibrated at large: the mean survival is what Kaplan and Meier say of the same labels.
        expected = kaplan_meier(task.values[task.predicted], planted.EDGES)
        assert result.survival.mean(axis=0) == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_the_majority_says_the_same_of_all(kind, found, fitted):
    task, result = planted.task(kind, found), fitted(kind, fitting.MAJORITY)
    assert (result.values == result.values[0]).all()
    train = task.values[planted.where(task, "train")]
    if kind == "classes":
        expected = [(train[:, 0] == c).mean() for c in range(3)]
    elif kind == "time":
        expected = 1 - kaplan_meier(train, planted.EDGES)[-1]
    else:
        expected = train.mean(axis=0) if kind == "codes" else train.mean()
    assert result.values[0] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("kind", "name"), LEARNED)
def test_held_out_labels_change_nothing_and_seeds_repeat(kind, name, found, fitted):
    task = planted.task(kind, found)
    rows = planted.where(task, "held_out")
    other = planted.with_values(task, rows, np.random.default_rng(0).permutation(task.values[rows]))
    assert (other.values != task.values).any()
    mine = fitting.fit(name, found, other)
    assert np.array_equal(mine.values, fitted(kind, name).values) and mine.chosen == fitted(kind, name).chosen


@pytest.mark.parametrize(("kind", "name"), [("yes_no", n) for n in (fitting.COUNTS_LR, fitting.COUNTS_GBM)])
def test_tuning_decides_and_is_not_learned_from(kind, name, found, fitted):
    task = planted.task(kind, found)
    rows = planted.where(task, "tuning")
    random = planted.with_values(task, rows, np.random.default_rng(1).permutation(task.values[rows]))
    mine = fitting.fit(name, found, random)
    # Where tuning shows that nothing can be told, the least is said; yet what is said comes from train.
    assert np.std(mine.values) < 0.6 * np.std(fitted(kind, name).values)
    assert quality(kind, task.values, mine, planted.where(task, "held_out")) > 0.6
    assert mine.chosen["tuning_loss"] == min(mine.chosen["tried"].values())


def test_held_out_features_change_no_mean(found):
    task = planted.task("yes_no", found)
    rows = planted.where(task, "held_out")
    counts, values, ages = found.counts.tolil(), found.values.copy(), found.ages.copy()
    counts[rows[0]], values[rows[0]], ages[rows[0]] = 1e6, 1e6, 500.0
    changed = dataclasses.replace(found, counts=counts.tocsr(), values=values, ages=ages)
    others = np.setdiff1d(np.arange(len(found)), rows[:1])
    for how in designs.SCALES:
        a, b = (designs.linear_design(f, task.train, how)[others] for f in (found, changed))
        assert a.shape == b.shape and (a != b).nnz == 0
    truth = task.outcomes.truth[task.train]
    a, b = (designs.tree_design(f, task.train, truth, 5)[others] for f in (found, changed))
    assert np.array_equal(a, b, equal_nan=True) and a.shape[1] == 7


@pytest.mark.parametrize("kind", KINDS)
def test_labels_without_difference_fall_back(kind, found):
    task = planted.task(kind, found)
    train = planted.where(task, "train")
    same = np.array([50.0, 0.0]) if kind == "time" else task.values[train[0]]
    flat = planted.with_values(task, train, same)
    for name in fitting.baselines_for(kind):
        result = fitting.fit(name, found, flat)
        assert "all the same" in result.chosen["fallback"]
        assert (result.values == result.values[0]).all() and np.isfinite(result.values).all()


def test_without_tuning_labels_a_fixed_choice(found):
    task = planted.task("yes_no", found)
    split = np.where(task.split == "tuning", "held_out", task.split)
    alone = dataclasses.replace(task, split=split)
    for name in fitting.baselines_for("yes_no")[1:]:
        result = fitting.fit(name, found, alone)
        assert result.chosen["tuning_loss"] is None and result.chosen["tried"] in ({}, {"rate 0.1, 8 leaves": None})
        if name != fitting.AGE_SEX:
            assert quality("yes_no", task.values, result, planted.where(task, "held_out")) > 0.75


def test_unknown_labels_are_neither_learned_from_nor_chosen_by(found):
    task = planted.task("classes", found)
    odd = np.arange(len(found)) % 10 == 0
    known = planted.with_values(task, np.flatnonzero(odd), -1.0)
    known = dataclasses.replace(known, known=~odd)
    wild = planted.with_values(known, np.flatnonzero(odd), 2.0)
    a, b = (fitting.fit(fitting.COUNTS_LR, found, t) for t in (known, wild))
    assert np.array_equal(a.values, b.values) and len(a.rows) == (task.split != "train").sum()


@pytest.mark.parametrize("kind", ["yes_no", "classes", "number"])
def test_the_linear_solver_is_scikit_learns(kind, found):
    task = planted.task(kind, found)
    x = designs.standardised(np.nan_to_num(found.counts.toarray()), task.train)
    truth = task.outcomes.take(task.train)
    none = truth.take(np.zeros(0, int))
    for c in (0.003, 0.3):
        model, _ = linear.fit_path(x[task.train], truth, x[task.tuning], task.outcomes.take(task.tuning), grid=(c,))
        if kind == "number":
            scale = truth.truth.std()
            other = Ridge(alpha=1 / c).fit(x[task.train], truth.truth[:, 0] / scale)
            expected = other.predict(x[task.tuning])[:, None] * scale
        else:
            other = LogisticRegression(C=c, tol=1e-8, max_iter=5000).fit(x[task.train], task.values[task.train, 0])
            expected = other.predict_proba(x[task.tuning])[:, 1 if kind == "yes_no" else 0 :]
        assert model.predict(x[task.tuning]) == pytest.approx(expected, rel=2e-3, abs=2e-3)
    _, chosen = linear.fit_path(x[task.train], truth, x[:0], none)
    assert chosen["C"] == linear.UNCHOSEN


@pytest.mark.parametrize("kind", KINDS)
def test_losses_have_the_gradients_they_say(kind, found):
    truth = planted.task(kind, found).outcomes.take(np.arange(6))
    scores = np.random.default_rng(0).normal(size=truth.truth.shape)
    flat = approx_fprime(scores.ravel(), lambda s: truth.loss(s.reshape(scores.shape))[0], 1e-7)
    assert truth.loss(scores)[1].ravel() == pytest.approx(flat, abs=1e-3 if kind == "number" else 1e-5)


def test_intervals_of_time():
    values = np.array([[0, 1], [10, 1], [10.5, 1], [20, 0], [100, 0], [100, 1], [500, 1]])
    made = outcomes(Target("time"), values, planted.EDGES)
    assert made.truth.tolist() == [[1, 0, 0], [1, 0, 0], [0, 1, 0], [0] * 3, [0] * 3, [0, 0, 1], [0] * 3]
    assert made.exposure[:5].tolist() == [[1, 0, 0], [1, 0, 0], [1, 1, 0], [1, 0.5, 0], [1, 1, 1]]
    # 7, 5 and 4 at risk at the events within the edges.
    assert kaplan_meier(values, (0.0, 10.2, 30.0, 100.0, 500.0)) == pytest.approx(
        [6 / 7, 5 / 7, 4 / 7, 4 / 7 * 2 / 3, 0.0]
    )
    with pytest.raises(InputError, match="rise"):
        outcomes(Target("time"), values, (30.0, 10.0))


def test_extremes_absence_and_constants_of_dense_columns():
    rng = np.random.default_rng(0)
    values = rng.normal(5, 2, (1000, 4))
    values[:, 1] = 3.3
    values[0, 0] = 1e9
    values[:300, 2:] = np.nan
    made = designs.fit_dense(values)
    scaled = made.transform(values)
    assert scaled.shape == (1000, 5), "two columns absent together are marked once"
    assert abs(scaled[:, 0]).max() < 4 and scaled[:, 0].std() == pytest.approx(1)
    assert (scaled[:, 1] == 0).all() and (scaled[:300, 2:] == 0).all()
    assert scaled[300:, 2].mean() == pytest.approx(0, abs=1e-9) and (scaled[300:, 4] == 1).all()


def test_a_probe_is_the_same_model_on_vectors(found):
    task = planted.task("yes_no", found)
    vectors = np.random.default_rng(0).normal(size=(len(found), 16)) + planted.score(found)[:, None]
    result = fitting.probe(vectors, task, name="mine", label="Mine")
    assert (result.name, result.label) == ("mine", "Mine") and result.chosen["C"] in linear.GRID
    assert quality("yes_no", task.values, result, planted.where(task, "held_out")) > 0.75
    moved = fitting.probe(vectors * 1000 + 7, task)
    assert moved.values == pytest.approx(result.values, abs=1e-3), "standardised"
    with pytest.raises(InputError, match="NaN"):
        fitting.probe(vectors * np.nan, task)
    with pytest.raises(InputError, match="one for each"):
        fitting.probe(vectors[1:], task)


def test_trees_on_vectors_see_what_no_line_does(found):
    task = planted.task("yes_no", found)
    vectors = np.random.default_rng(0).normal(size=(len(found), 6))
    # Of four quarters the two that touch in the middle hold the yes.
    task = dataclasses.replace(task, values=(vectors[:, :1] * vectors[:, 1:2] > 0).astype(np.float64))
    trees, line = fitting.tree_probe(vectors, task, name="mine"), fitting.probe(vectors, task)
    where = planted.where(task, "held_out")
    assert quality("yes_no", task.values, trees, where) > 0.95 > 0.6 > quality("yes_no", task.values, line, where)
    assert trees.name == "mine" and trees.chosen["columns"] == 6
    with pytest.raises(InputError, match="NaN"):
        fitting.tree_probe(vectors * np.nan, task)
    with pytest.raises(InputError, match="not fitted on labels of 'codes'"):
        fitting.check_trees("codes")


def test_trees_of_very_many_numbers_try_one_setting(found, monkeypatch):
    task = planted.task("yes_no", found)
    assert len(fitting.fit("counts_gbm", found, task).chosen["tried"]) == len(boosting.GRID)
    monkeypatch.setattr(boosting, "_MANY", 1)
    monkeypatch.setattr(fitting, "TREE_CELLS", 1)
    monkeypatch.setattr(fitting, "LEAST_TREE_COLUMNS", 5)
    few = fitting.fit("counts_gbm", found, task)
    assert list(few.chosen["tried"]) == ["rate 0.1, 8 leaves"] and few.chosen["columns"] <= 7
    assert quality("yes_no", task.values, few, planted.where(task, "held_out")) > 0.6


@pytest.mark.parametrize("what", ["nothing known", "no columns"])
def test_nobody_has_an_age_a_sex_or_a_value(what, found):
    task = planted.task("yes_no", found)
    bare = dataclasses.replace(
        found,
        values=np.full_like(found.values, np.nan),
        ages=np.full_like(found.ages, np.nan),
        sexes=np.full_like(found.sexes, "unknown"),
    )
    if what == "no columns":
        bare = dataclasses.replace(bare, counts=bare.counts[:, :0], count_names=(), values=bare.values[:, :0])
    for name in fitting.baselines_for("yes_no"):
        result = fitting.fit(name, bare, task)
        tells = what == "nothing known" and name in (fitting.COUNTS_LR, fitting.COUNTS_GBM)
        assert np.isfinite(result.values).all() and (np.ptp(result.values) > 0) == tells


def test_rare_codes_keep_their_rate(found, monkeypatch):
    task = planted.task("codes", found)
    monkeypatch.setattr(fitting, "MOST_CODES", 3)
    result = fitting.fit(fitting.COUNTS_LR, found, task)
    rare = int(np.argmin(task.values[task.train].sum(axis=0)))
    assert result.chosen["codes"] == 3 and np.ptp(result.values[:, rare]) == 0
    assert all(np.ptp(result.values[:, k]) > 0 for k in range(4) if k != rare)


def test_recent_and_frequent_codes_come_first(found):
    from ehrjax.evals.baselines.previous import states

    counts = np.zeros((5, 11), np.float32)
    counts[:, 3] = [0, 1, 5, 1, 5]
    counts[:, 0] = [0, 0, 0, 1, 2]
    few = dataclasses.replace(found, counts=type(found.counts)(counts), ages=found.ages[:5])
    state = states(few, ("A", "not there"))
    assert (np.diff(state[:, 0]) > 0).all() and (state[:, 1] == 0).all()


def test_what_cannot_be_fitted_is_said(found):
    task = planted.task("time", found)
    with pytest.raises(InputError, match="no baseline"):
        fitting.fit(fitting.COUNTS_GBM, found, task)
    with pytest.raises(InputError, match="features of"):
        fitting.fit(fitting.MAJORITY, planted.features(10), task)
    with pytest.raises(InputError, match="No label is in train"):
        dataclasses.replace(task, split=np.full(len(found), "held_out"))
    with pytest.raises(InputError, match="there are some for"):
        fitting.baselines_for("colour")
