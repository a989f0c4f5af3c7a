"""Records made worse: as much as was asked for, nothing else, the same each time."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from ehrjax.data import token_dataset
from ehrjax.evals import degrading
from ehrjax.vocab import vocabulary as vocabularies


@pytest.fixture(scope="module")
def given(toy_tokens):
    dataset = token_dataset.open_tokens(toy_tokens)
    split = dataset.split("train")
    subjects = [split.subject(i) for i in range(60)]
    content = [(s, s.num_static, (s.num_static + len(s.tokens) + 1) // 2) for s in subjects if len(s.tokens) > 8]
    return dataset, content


def tokens_of(window):
    subject, start, stop = window
    return subject.tokens[start:stop]


@pytest.mark.parametrize("kind", degrading.KINDS)
def test_it_is_the_same_each_time_and_nothing_at_level_zero(given, kind):
    dataset, content = given
    recipe = dataset.info["recipe"]
    degrader = degrading.Degrader(dataset.vocabulary, recipe, seed=3)
    for level in (0.0, 0.5):
        first, second = degrader.windows(content, kind, level), degrader.windows(content[::-1], kind, level)[::-1]
        for a, b, window in zip(first, second, content):
            np.testing.assert_array_equal(tokens_of(a), tokens_of(b))
            if not level:
                np.testing.assert_array_equal(tokens_of(a), tokens_of(window))
            static = window[0].num_static
            assert a[0].num_static == static and a[0].subject_id == window[0].subject_id
            np.testing.assert_array_equal(a[0].tokens[:static], window[0].tokens[:static])
            sizes = {len(a[0].tokens), len(a[0].times), len(a[0].visits), len(a[0].values)}
            assert len(sizes) == 1 and (not level or sizes == {a[2]})
    other = degrading.Degrader(dataset.vocabulary, recipe, seed=4).windows(content, kind, 0.5)
    assert any(not np.array_equal(tokens_of(a), tokens_of(b)) for a, b in zip(first, other))


def test_the_share_that_is_lost_and_what_it_is(given):
    dataset, content = given
    vocabulary = dataset.vocabulary
    degrader, specials = degrading.Degrader(vocabulary, dataset.info["recipe"]), vocabulary.num_specials
    before = np.concatenate([tokens_of(w) for w in content])
    is_lab = np.array([s.startswith("LAB") for s in vocabulary.strings])
    for level in (0.25, 0.75):
        codes = np.concatenate([tokens_of(w) for w in degrader.windows(content, "missing_codes", level)])
        assert (codes >= specials).sum() / (before >= specials).sum() == pytest.approx(1 - level, abs=0.03)
        assert (codes == vocabulary.sep).sum() == (before == vocabulary.sep).sum()
        labs = np.concatenate([tokens_of(w) for w in degrader.windows(content, "missing_labs", level)])
        assert is_lab[labs].sum() / is_lab[before].sum() == pytest.approx(1 - level, abs=0.04)
        others = ~is_lab & (np.arange(len(is_lab)) != vocabulary.unk)
        assert others[labs].sum() == others[before].sum()
        unknown = np.concatenate([tokens_of(w) for w in degrader.windows(content, "unknown_codes", level)])
        assert len(unknown) == len(before)
        added = (unknown == vocabulary.unk).sum() - (before == vocabulary.unk).sum()
        assert added / (before >= specials).sum() == pytest.approx(level, abs=0.03)


def test_noise_moves_values_to_the_bins_they_lie_in(given):
    dataset, content = given
    vocabulary = dataset.vocabulary
    degrader = degrading.Degrader(vocabulary, dataset.info["recipe"])
    assert degrader.has_bins
    table, moved, stayed = vocabulary.table, 0, 0
    low, high, code = table["low"].to_numpy(), table["high"].to_numpy(), table["code"].to_list()
    order = table.filter(table["bin"].is_not_null()).sort("bin")
    last = dict(order.select("code", "token").iter_rows())
    first = dict(order.reverse().select("code", "token").iter_rows())
    for before, after in zip(content, degrader.windows(content, "value_noise", 0.5)):
        for old, new, value in zip(tokens_of(before), tokens_of(after), after[0].values[after[1] : after[2]]):
            if table["bin"][int(old)] is None:
                assert old == new
                continue
            assert code[old] == code[new]
            # The outermost bins are open: train's least and largest values are no bounds.
            assert new == first[code[new]] or low[new] <= value or np.isclose(low[new], value)
            assert new == last[code[new]] or value <= high[new] or np.isclose(high[new], value)
            moved, stayed = moved + (old != new), stayed + (old == new)
    assert moved and stayed


def test_noise_of_one_is_the_standard_deviation_of_the_values():
    rng = np.random.default_rng(0)
    made = {
        "deciles": (rng.normal(140, 5, 20_000), np.arange(0.1, 1, 0.1)),
        # Merged quantiles: a third of all values are the lowest one.
        "tied": (np.maximum(rng.normal(140, 5, 20_000), 138), np.arange(0.5, 1, 0.1)),
        "two bins": (rng.integers(98, 100, 20_000).astype(float), [0.3]),
    }
    for name, (values, shares) in made.items():
        edges = np.unique(np.quantile(values, shares))
        counts = np.bincount(np.searchsorted(edges, values, side="left"))
        found = degrading._spread(np.array([values.min(), *edges, values.max()]), counts)
        expected = {"deciles": 5, "tied": 5, "two bins": 0.25}[name]
        assert found == pytest.approx(expected, rel=0.05), name


def test_a_window_never_becomes_empty(given):
    dataset, content = given
    short = [(s, start, start + 1) for s, start, _ in content]
    degrader = degrading.Degrader(dataset.vocabulary, dataset.info["recipe"])
    for window in degrader.windows(short, "missing_codes", 0.99):
        assert window[2] > window[1]


def test_an_event_is_lost_with_all_its_tokens_and_time_passes_all_the_same():
    """In a grammar of several tokens an event: a code in levels, its bin, and the time before it."""
    strings = ["LAB//a", "Q1", "Q2", "DX//E11", "DX//3-6//65", "DX//SFX//1", "1d-2d", "[VS]", "[VE]"]
    counts = pl.DataFrame({"str": strings, "code": strings, "bin": [None] * 9, "count": [9 - i for i in range(9)]})
    vocabulary = vocabularies.build(counts.cast({"bin": pl.Int32}), min_count=1, bin_bounds={}, descriptions={})
    ids = vocabulary.ids
    steps = ("number_visits", "bin_values", "split_codes", "time_tokens", "visit_tokens")
    settings = {"bin_values": {"separate": True}, "split_codes": {"family": "DX"}, "time_tokens": {"kind": "ethos"}}
    visit = ["[VS]", "LAB//a", "Q2", "DX//E11", "DX//3-6//65", "DX//SFX//1", "[UNK]", "DX//E11", "[VE]", "1d-2d"]
    tokens = np.array([ids[name] for name in visit * 200], np.int32)
    values = np.full(len(tokens), np.nan, np.float32)
    values[tokens == ids["LAB//a"]] = 1.5
    times = np.arange(len(tokens))
    subject = token_dataset.Subject(5, None, 0, tokens, times, np.zeros(len(tokens), np.int32), values)
    degrader = degrading.Degrader(vocabulary, {"steps": steps, "settings": settings})
    groups = [["LAB//a", "Q2"], ["DX//E11", "DX//3-6//65", "DX//SFX//1"], ["[UNK]"], ["DX//E11"]]
    for kind in ("missing_codes", "missing_labs", "unknown_codes"):
        ((after, start, stop),) = degrader.windows([(subject, 0, len(tokens))], kind, 0.5)
        found = vocabulary.decode(after.tokens[start:stop])
        between = [name for name in found if name in ("[VS]", "[VE]", "1d-2d")]
        assert between == ["[VS]", "[VE]", "1d-2d"] * 200, kind
        kept = {"whole": 0, "gone": 0}
        for _ in range(200):
            here = found[: found.index("1d-2d") + 1]
            del found[: len(here)]
            left = here[1:-2]
            for group in groups:
                whole = left[: len(group)] == group
                kept["whole" if whole else "gone"] += 1
                if whole:
                    del left[: len(group)]
                elif kind == "unknown_codes":
                    assert left.pop(0) == "[UNK]"
            assert not left, (kind, here)
        share = kept["gone"] / (kept["gone"] + kept["whole"])
        assert share == pytest.approx(
            {"missing_codes": 0.5, "missing_labs": 0.125, "unknown_codes": 0.375}[kind], abs=0.05
        )
