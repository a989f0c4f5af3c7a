"""The baselines equal a slow transcription of their definitions and never see what is hidden."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ehrjax.core import config as configs
from ehrjax.core import mesh as meshes
from ehrjax.data import collate, open_tokens, pipeline
from ehrjax.evals import masked_code_accuracy as accuracy
from ehrjax.evals import tuning
from ehrjax.training import run, step
from ehrjax.vocab.vocabulary import Vocabulary
from tests.conftest import ROOT

SPECIALS, SIZE = 5, 14


@st.composite
def windows(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(tokens, hidden, train order): a window, which of its positions are hidden, and an order of the codes."""
    tokens = np.array(draw(st.lists(st.integers(2, SIZE - 1), min_size=1, max_size=20)))
    hidden = np.array(draw(st.lists(st.booleans(), min_size=len(tokens), max_size=len(tokens))))
    order = np.array(draw(st.permutations(range(SPECIALS, SIZE))))
    return tokens, hidden & (tokens >= SPECIALS), order


def ranks_of(order: np.ndarray) -> np.ndarray:
    rank = np.full(SIZE, SIZE)
    rank[order] = np.arange(len(order))
    return rank


def ranking(first: list[int], order: np.ndarray) -> list[int]:
    """Codes in the order in which a baseline names them: `first`, then the train order."""
    return first + [int(code) for code in order if code not in first]


def slow_subject(tokens: np.ndarray, usable: np.ndarray, order: np.ndarray) -> list[int]:
    counts = Counter(int(t) for t, use in zip(tokens, usable) if use)
    return ranking(sorted(counts, key=lambda code: (-counts[code], list(order).index(code))), order)


def slow_neighbour(tokens: np.ndarray, usable: np.ndarray, place: int, order: np.ndarray) -> list[int]:
    before = [int(tokens[i]) for i in range(place - 1, -1, -1) if usable[i]]
    after = [int(tokens[i]) for i in range(place + 1, len(tokens)) if usable[i]]
    return ranking((before or after)[:1], order)


@settings(max_examples=200, deadline=None)
@given(windows())
def test_baselines_equal_their_definitions(window: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    tokens, hidden, order = window
    usable = ~hidden & (tokens >= SPECIALS)
    places, rank = np.flatnonzero(hidden), ranks_of(order)
    truth = tokens[places]
    subject = accuracy.subject_ranks(tokens[usable], truth, rank)
    neighbour = accuracy.neighbour_ranks(tokens, usable, places, truth, rank)
    for i, place in enumerate(places):
        assert subject[i] == slow_subject(tokens, usable, order).index(truth[i])
        assert neighbour[i] == slow_neighbour(tokens, usable, place, order).index(truth[i])


@settings(max_examples=100, deadline=None)
@given(windows(), st.integers(0, 1000))
def test_baselines_do_not_see_what_is_hidden(window: tuple, seed: int) -> None:
    """With other codes at the hidden positions, a baseline gives any code the same rank."""
    tokens, hidden, order = window
    usable = ~hidden & (tokens >= SPECIALS)
    other = np.where(hidden, np.random.default_rng(seed).integers(SPECIALS, SIZE, len(tokens)), tokens)
    places, rank = np.flatnonzero(hidden), ranks_of(order)
    for code in range(SPECIALS, SIZE):
        asked = np.full(len(places), code)
        for a, b in (
            (accuracy.subject_ranks(t[usable], asked, rank) for t in (tokens, other)),
            (accuracy.neighbour_ranks(t, usable, places, asked, rank) for t in (tokens, other)),
        ):
            assert np.array_equal(a, b)


def test_the_train_order_is_by_count(toy_tokens: Path) -> None:
    dataset = open_tokens(toy_tokens)
    order = accuracy.train_order(dataset.split("train"), dataset.vocabulary)
    train = dataset.split("train")
    counts = Counter(int(t) for i in range(len(train)) for t in train.subject(i).tokens)
    assert sorted(order) == list(range(dataset.vocabulary.num_specials, len(dataset.vocabulary)))
    found = [counts[int(code)] for code in order]
    assert found == sorted(found, reverse=True)


def small_vocabulary() -> Vocabulary:
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "DX//a", "DX//b", "LAB//c", "LAB//d"]
    return Vocabulary(
        pl.DataFrame(
            {
                "token": range(len(names)),
                "str": names,
                "family": ["special"] * 5 + ["DX", "DX", "LAB", "LAB"],
            }
        )
    )


def test_collect_adds_up_by_subject_family_and_method() -> None:
    """Two windows in one row and a second window of the first subject in another row, counted by hand."""
    vocabulary = small_vocabulary()
    a, b, c, d = 5, 6, 7, 8
    host = collate(
        [
            {"tokens": [a, a, b, c], "subject_id": 10},
            {"tokens": [c, d], "subject_id": 20},
        ],
        context_length=8,
        max_segments=2,
        batch_size=2,
    )
    host["tokens"][1, :3], host["segment_ids"][1, :3] = [d, d, a], 1
    host["subject_id"][1, 0] = 10
    first = {
        int(s): int(np.flatnonzero(host["segment_ids"][0] == i + 1)[0]) for i, s in enumerate(host["subject_id"][0])
    }
    index = np.array([[first[10] + 2, first[10] + 3, first[20]], [2, 0, 0]])
    targets = np.array([[b, c, c], [a, 0, 0]])
    weights = np.array([[1.0, 1, 1], [1, 0, 0]], np.float32)
    ranks = np.array([[0, 3, 7], [0, 0, 0]])
    losses = np.array([[0.5, 1.0, 2.0], [4.0, 9.0, 9.0]], np.float32)
    prepared = {
        "tokens": host["tokens"],
        "target_index": index,
        "target_tokens": targets,
        "target_weights": weights,
    }

    class Batches:
        split = SimpleNamespace(subject_ids=np.array([10, 20, 30]))

        def __iter__(self) -> object:
            return iter([(host, {}, None)])

    sums = accuracy.collect(
        Batches(),
        lambda params, device, key: (prepared, {}, {"rank": ranks, "loss": losses}),
        None,
        vocabulary,
        np.array([a, b, c, d]),
    )
    names, _ = vocabulary.families
    dx, lab = names.index("DX"), names.index("LAB")
    np.testing.assert_allclose(sums["loss"], [5.5, 2.0, 0.0])
    assert sums["weights"][:, dx].tolist() == [2, 0, 0] and sums["weights"][:, lab].tolist() == [1, 1, 0]
    hits = sums["hits"]  # [subjects, families, methods, top 1/5/10]
    model, train, subject, neighbour = range(4)
    assert hits[0, dx, model].tolist() == [2, 2, 2]  # b at rank 0, a at rank 0
    assert hits[0, lab, model].tolist() == [0, 1, 1]  # c at rank 3
    assert hits[1, lab, model].tolist() == [0, 0, 1]  # c at rank 7
    assert hits[0, dx, train].tolist() == [1, 2, 2]  # a is first in the train order, b second
    # Row 0 of subject 10 shows a, a: b is second. Its row 1 shows d, d: then a, the first in the train order.
    assert hits[0, dx, subject].tolist() == [0, 2, 2]
    # Before b stands a; b is hidden, so before c stands a as well; before the lone a of row 1 stands d.
    assert hits[0, dx, neighbour].tolist() == [0, 2, 2] and hits[0, lab, neighbour].tolist() == [0, 1, 1]
    assert hits[1, lab, neighbour].tolist() == [0, 1, 1]  # nothing before c, d after it
    assert not hits[2].any()


@pytest.fixture(scope="module")
def smoke(toy_tokens: Path) -> SimpleNamespace:
    config = configs.to_dict(configs.from_argv([f"--config={ROOT}/configs/behrt.py:smoke"]))
    config["data"].update(path=str(toy_tokens), eval_batches=0)
    dataset = open_tokens(toy_tokens)
    parts = run.build(config, dataset.vocabulary)
    params = parts.init(jax.random.key(3))
    mesh = meshes.make(meshes.Settings(data=1), devices=jax.devices()[:1])
    batches = tuning.SplitBatches(
        dataset.split("tuning"),
        configs.into(pipeline.Settings, config["data"], where="data"),
        mesh,
        parts.fields,
        4,
        0,
    )
    evaluate = jax.jit(step.make_eval_step(parts.model, parts.objective))
    return SimpleNamespace(dataset=dataset, parts=parts, params=params, batches=batches, evaluate=evaluate)


def test_measure_equals_a_direct_computation(smoke: SimpleNamespace) -> None:
    """The model's accuracy and loss again, from whole logits at the hidden positions of the same draws."""
    measured = accuracy.measure(
        smoke.batches, smoke.dataset.split("train"), smoke.evaluate, smoke.params, smoke.dataset.vocabulary
    )
    head = smoke.parts.objective.head()
    correct = losses = count = 0
    for host, device, key in smoke.batches:
        prepared = smoke.parts.objective.prepare(device, key, evaluate=True)
        outputs = smoke.parts.model.apply({"params": smoke.params["model"]}, prepared, deterministic=True)
        logits = head.apply({"params": smoke.params["head"]}, outputs["hidden"], outputs["table"])
        log_p = np.asarray(jax.nn.log_softmax(logits), np.float64)
        for row in range(len(log_p)):
            real = np.asarray(prepared["target_weights"])[row] > 0
            at = np.asarray(prepared["target_index"])[row][real]
            truth = host["tokens"][row][at]
            assert (np.asarray(prepared["target_tokens"])[row][real] == truth).all()
            correct += (log_p[row, at].argmax(-1) == truth).sum()
            losses -= log_p[row, at, truth].sum()
            count += len(at)
    assert measured["targets"] == count > 100
    assert measured["overall"]["model_top1"]["value"] == pytest.approx(correct / count, abs=1e-9)
    assert measured["loss"]["value"] == pytest.approx(losses / count, abs=1e-4)


def test_families_add_up_to_the_whole(smoke: SimpleNamespace) -> None:
    measured = accuracy.measure(
        smoke.batches, smoke.dataset.split("train"), smoke.evaluate, smoke.params, smoke.dataset.vocabulary
    )
    families = measured["families"].values()
    assert sum(f["targets"] for f in families) == measured["targets"]
    for name in (f"{m}_top{k}" for m in accuracy.METHODS for k in accuracy.TOP):
        whole = measured["overall"][name]["value"] * measured["targets"]
        assert sum(f[name]["value"] * f["targets"] for f in families) == pytest.approx(whole)


def test_a_perfect_model_is_right_everywhere(smoke: SimpleNamespace) -> None:
    """With the truth as predictions the model's accuracy is one and its difference to a baseline the rest."""

    def oracle(params: object, device: dict, key: jax.Array) -> tuple:
        prepared, sums, predictions = smoke.evaluate(params, device, key)
        return prepared, sums, {**predictions, "rank": np.zeros_like(predictions["rank"])}

    measured = accuracy.measure(
        smoke.batches, smoke.dataset.split("train"), oracle, smoke.params, smoke.dataset.vocabulary
    )["overall"]
    assert measured["model_top1"]["value"] == 1.0 == measured["model_top1"]["low"]
    for baseline in accuracy.BASELINES:
        rest = 1 - measured[f"{baseline}_top1"]["value"]
        assert measured[f"model_minus_{baseline}_top1"]["value"] == pytest.approx(rest)


def test_the_same_positions_are_hidden_each_time(smoke: SimpleNamespace) -> None:
    draws = [
        [np.asarray(smoke.evaluate(smoke.params, device, key)[0]["target_index"]) for _, device, key in smoke.batches]
        for _ in range(2)
    ]
    assert all(np.array_equal(a, b) for a, b in zip(*draws))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.integers(0, SIZE - 1), max_size=30), max_size=3))
def test_the_train_order_breaks_ties_by_token_and_adds_shards(shards: list[list[int]]) -> None:
    split = SimpleNamespace(shards=[SimpleNamespace(columns={"tokens": np.array(s, np.int32)}) for s in shards])
    vocabulary = Vocabulary(pl.DataFrame({"token": range(SIZE), "str": [str(i) for i in range(SIZE)]}))
    counts = Counter(token for shard in shards for token in shard)
    expected = sorted(range(SPECIALS, SIZE), key=lambda code: (-counts[code], code))
    assert accuracy.train_order(split, vocabulary).tolist() == expected


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(windows(), min_size=1, max_size=3), min_size=1, max_size=3), st.integers(0, 10_000))
def test_collect_equals_a_loop_over_targets(rows: list[list[tuple]], seed: int) -> None:
    """Several windows a row, subjects in several rows; hidden positions show [MASK], another code or the truth."""
    rng = np.random.default_rng(seed)
    order, length, most = rows[0][0][2], 64, 24
    families = np.array(["special"] * SPECIALS + ["B"] * 4 + ["A"] * (SIZE - SPECIALS - 4))
    vocabulary = Vocabulary(
        pl.DataFrame({"token": range(SIZE), "str": [str(i) for i in range(SIZE)], "family": families})
    )
    subjects = np.array([40, 7, 19])
    shape = (len(rows), most * 3)
    prepared = {
        "tokens": np.zeros((len(rows), length), np.int32),
        "target_index": np.zeros(shape, np.int32),
        "target_tokens": np.zeros(shape, np.int32),
        "target_weights": np.zeros(shape, np.float32),
    }
    host = {"segment_ids": np.zeros((len(rows), length), np.int32), "subject_id": np.full((len(rows), 3), -1)}
    predictions = {"rank": rng.integers(0, 12, shape), "loss": rng.random(shape).astype(np.float32)}
    hits = {(s, f, m, k): 0 for s in subjects for f in "AB" for m in range(4) for k in accuracy.TOP}
    weights, losses = Counter(), Counter()
    for row, parts in enumerate(rows):
        start = target = 0
        for segment, (tokens, hidden, _) in enumerate(parts, start=1):
            subject = int(rng.choice(subjects))
            host["subject_id"][row, segment - 1] = subject
            host["segment_ids"][row, start : start + len(tokens)] = segment
            said = np.stack([np.full(len(tokens), 4), rng.integers(SPECIALS, SIZE, len(tokens)), tokens])
            shown = np.where(hidden, said[rng.integers(0, 3, len(tokens)), np.arange(len(tokens))], tokens)
            prepared["tokens"][row, start : start + len(tokens)] = shown
            usable = ~hidden & (tokens >= SPECIALS)
            for place in np.flatnonzero(hidden):
                truth = int(tokens[place])
                prepared["target_index"][row, target] = start + place
                prepared["target_tokens"][row, target] = truth
                prepared["target_weights"][row, target] = 1
                ranks = (
                    predictions["rank"][row, target],
                    ranking([], order).index(truth),
                    slow_subject(tokens, usable, order).index(truth),
                    slow_neighbour(tokens, usable, place, order).index(truth),
                )
                for m, rank in enumerate(ranks):
                    for k in accuracy.TOP:
                        hits[subject, families[truth], m, k] += rank < k
                weights[subject, families[truth]] += 1
                losses[subject] += float(predictions["loss"][row, target])
                target += 1
            start += len(tokens)

    class Batches:
        split = SimpleNamespace(subject_ids=subjects)

        def __iter__(self) -> object:
            return iter([(host, {}, None)])

    sums = accuracy.collect(Batches(), lambda *_: (prepared, {}, predictions), None, vocabulary, order)
    names, _ = vocabulary.families
    for i, subject in enumerate(subjects):
        assert sums["loss"][i] == pytest.approx(losses[subject], rel=1e-5)
        for family in "AB":
            f = names.index(family)
            assert sums["weights"][i, f] == weights[subject, family]
            for m in range(4):
                for j, k in enumerate(accuracy.TOP):
                    assert sums["hits"][i, f, m, j] == hits[subject, family, m, k]
    assert not sums["weights"][:, names.index("special")].any()


def test_measure_equals_each_window_alone(smoke: SimpleNamespace) -> None:
    """Every window in a row of its own: what is packed beside it changes neither its ranks nor its loss."""
    measured = accuracy.measure(
        smoke.batches, smoke.dataset.split("train"), smoke.evaluate, smoke.params, smoke.dataset.vocabulary
    )
    head, model = smoke.parts.objective.head(), smoke.parts.model

    @jax.jit
    def log_likelihoods(params: dict, batch: dict) -> jax.Array:
        outputs = model.apply({"params": params["model"]}, batch, deterministic=True)
        logits = head.apply({"params": params["head"]}, outputs["hidden"], outputs["table"])
        return jax.nn.log_softmax(logits)

    correct = losses = count = several = 0
    for host, device, key in smoke.batches:
        prepared = jax.device_get(smoke.parts.objective.prepare(device, key, evaluate=True))
        fields = {name: np.asarray(device[name]) for name in smoke.parts.fields}
        fields["tokens"] = prepared["tokens"]
        rows, asked = [], []
        for row in range(len(prepared["tokens"])):
            segments = host["segment_ids"][row]
            index = prepared["target_index"][row][prepared["target_weights"][row] > 0]
            several += segments.max() > 1
            for segment in range(1, segments.max() + 1):
                span = np.flatnonzero(segments == segment)
                alone = {}
                for name, array in fields.items():
                    if array.shape == host["tokens"].shape:
                        alone[name] = np.zeros_like(array[row])
                        alone[name][: len(span)] = array[row, span]
                    else:  # one entry a window: an index in the row
                        alone[name] = np.full_like(array[row], -1)
                        alone[name][0] = array[row, segment - 1] - span[0]
                alone["segment_ids"] = (np.arange(len(segments)) < len(span)).astype(np.int32)
                rows.append(alone)
                asked.append([(place - span[0], host["tokens"][row, place]) for place in index if place in span])
        batch = {name: np.stack([alone[name] for alone in rows]) for name in rows[0]}
        padded = -(-len(rows) // 32) * 32
        batch = {name: np.resize(array, (padded, *array.shape[1:])) for name, array in batch.items()}
        log_p = np.asarray(log_likelihoods(smoke.params, batch), np.float64)
        for i, pairs in enumerate(asked):
            for place, truth in pairs:
                correct += log_p[i, place].argmax() == truth
                losses -= log_p[i, place, truth]
                count += 1
    assert several, "some rows must hold several windows"
    assert measured["targets"] == count
    assert measured["overall"]["model_top1"]["value"] == pytest.approx(correct / count, abs=1e-9)
    assert measured["loss"]["value"] == pytest.approx(losses / count, abs=1e-4)


def test_the_evaluator_and_the_report_agree(smoke: SimpleNamespace) -> None:
    measured = accuracy.measure(
        smoke.batches, smoke.dataset.split("train"), smoke.evaluate, smoke.params, smoke.dataset.vocabulary
    )
    logged = tuning.TuningLoss(smoke.batches, smoke.evaluate)(smoke.params)
    assert logged["tuning_loss"] == pytest.approx(measured["loss"]["value"], rel=1e-5)
    for k in accuracy.TOP:
        assert logged[f"tuning_top{k}"] == pytest.approx(measured["overall"][f"model_top{k}"]["value"], abs=1e-6)


def test_copying_what_stands_at_a_hidden_position_names_nothing(smoke: SimpleNamespace) -> None:
    """The model sees no more than the baselines: the true code does not stand where it is asked for."""

    def copying(params: object, device: dict, key: jax.Array) -> tuple:
        prepared, sums, predictions = jax.device_get(smoke.evaluate(params, device, key))
        shown = np.take_along_axis(prepared["tokens"], prepared["target_index"], axis=1)
        rank = np.where(shown == prepared["target_tokens"], 0, len(smoke.dataset.vocabulary))
        return prepared, sums, {**predictions, "rank": rank}

    overall = accuracy.measure(
        smoke.batches, smoke.dataset.split("train"), copying, smoke.params, smoke.dataset.vocabulary
    )["overall"]
    # A replacement drawn at random is the true code now and then; one in fifty is far more than that.
    assert overall["model_top1"]["value"] < 0.02
