"""Records made worse on purpose, to see how a model stands it: less recorded, noise in values, codes nobody knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import NormalDist
from typing import Any

import numpy as np
import polars as pl

from ehrjax.data.rows import Window
from ehrjax.data.token_dataset import Subject
from ehrjax.vocab import token_roles
from ehrjax.vocab.vocabulary import Vocabulary

KINDS = {
    "missing_codes": "share of events left out",
    "missing_labs": "share of measurements left out",
    "value_noise": "noise on measured values, in their standard deviations",
    "unknown_codes": "share of events whose code is unknown",
}
LEVELS = {kind: (0.0, 0.1, 0.25, 0.5, 0.75) for kind in KINDS} | {"value_noise": (0.0, 0.25, 0.5, 1.0, 2.0)}


class Degrader:
    """Makes windows worse; what happens to a window depends on (seed, kind, level, its subject and place) alone.

    An event is lost with all tokens that are about it (its bin, the levels of its code); where its code is unknown one
    [UNK] stands for all of them. Static tokens, specials and time tokens stay. Of a window of which nothing would be
    left the last token stays, so that every label keeps its prediction.

    Args:
      vocabulary: of the tokens.
      recipe: `recipe` of their dataset.json.
      seed: draws what is lost.
    """

    def __init__(self, vocabulary: Vocabulary, recipe: Mapping[str, Any], *, seed: int = 0) -> None:
        self._seed, self._unk = seed, vocabulary.unk
        self._roles = token_roles.of(vocabulary.strings, recipe)
        table = vocabulary.table
        self._binned = table["bin"].is_not_null().to_numpy() & table["code"].is_not_null().to_numpy()
        # Of each binned code: its tokens in order, the edges between them, and its standard deviation.
        self._bins: dict[int, tuple[np.ndarray, np.ndarray, float]] = {}
        binned = table.filter(pl.Series(self._binned)).sort("code", "bin")
        for _, rows in binned.group_by("code", maintain_order=True):
            ids, edges = rows["token"].to_numpy(), rows["high"].to_numpy()[:-1].astype(np.float64)
            if len(edges) and np.isfinite(edges).all():
                ends = np.array([rows["low"][0], *edges, rows["high"][-1]])
                entry = ids, edges, _spread(ends, rows["count"].to_numpy())
                self._bins.update({int(token): entry for token in ids})

    @property
    def has_bins(self) -> bool:
        """Whether values are bins of codes, so that noise can move them."""
        return bool(self._bins)

    def windows(self, content: Sequence[Window], kind: str, level: float) -> list[Window]:
        """The windows (subject, start, stop), made worse.

        Args:
          content: of labels.
          kind: of KINDS.
          level: as KINDS says; 0 changes nothing.
        """
        if not level:
            return list(content)
        number = list(KINDS).index(kind)
        return [self._one(window, kind, number, level) for window in content]

    def _one(self, window: Window, kind: str, number: int, level: float) -> Window:
        subject, start, stop = window
        key = np.random.SeedSequence([self._seed, number, int(1000 * level), abs(subject.subject_id), start, stop])
        random = np.random.Generator(np.random.Philox(key))
        static, span = subject.num_static, slice(start, stop)
        tokens, values = subject.tokens[span].copy(), subject.values[span].copy()
        event = token_roles.events(self._roles[tokens])
        keep = np.ones(len(tokens), bool)
        drawn = (random.random(len(tokens)) < level)[event] & (event >= 0)
        if kind == "missing_codes":
            keep = ~drawn
        elif kind == "missing_labs":
            keep = ~(drawn & (~np.isnan(values) | self._binned[tokens])[event])
        elif kind == "unknown_codes":
            tokens[drawn], values[drawn] = self._unk, np.nan
            keep = ~drawn | (event == np.arange(len(tokens)))
        else:
            self._shake(tokens, values, random.standard_normal(len(tokens)) * level)
        if len(keep) and not keep.any():
            keep[-1] = True
        return _rebuilt(subject, span, keep, tokens, values), static, static + int(keep.sum())

    def _shake(self, tokens: np.ndarray, values: np.ndarray, noise: np.ndarray) -> None:
        """Moves values by so many standard deviations, and their tokens to the bins that they come to lie in."""
        for at in np.flatnonzero(self._binned[tokens]):
            entry = self._bins.get(int(tokens[at]))
            if entry is None:
                continue
            ids, edges, spread = entry
            value = values[at]
            if np.isnan(value):  # only the bin is known
                place = int(np.flatnonzero(ids == tokens[at])[0])
                value = edges[min(place, len(edges) - 1)]
            values[at] = value + noise[at] * spread
            tokens[at] = ids[np.searchsorted(edges, values[at], side="left")]


def _spread(ends: np.ndarray, counts: np.ndarray) -> float:
    """The standard deviation of values that are known by their bins.

    It is that of a normal variable with as much between the outermost of the inner edges; what lies beyond them may be
    far out. Two bins have one such edge: then all values of a bin count as its middle.

    Args:
      ends: [bins + 1] the least value, the edges between the bins, the largest value.
      counts: [bins] values in each.
    """
    shares = np.cumsum(counts + 1) / (counts + 1).sum()  # a bin may have none
    if len(counts) > 2:
        inner = [NormalDist().inv_cdf(share) for share in (shares[0], shares[-2])]
        return float(ends[-2] - ends[1]) / (inner[1] - inner[0])
    return float(np.ptp((ends[:-1] + ends[1:]) / 2) * np.sqrt(shares[0] * (1 - shares[0])))


def _rebuilt(subject: Subject, span: slice, keep: np.ndarray, tokens: np.ndarray, values: np.ndarray) -> Subject:
    """The subject with the kept tokens of a window behind its static ones, and nothing else."""
    static = subject.num_static
    return replace(
        subject,
        tokens=np.concatenate([subject.tokens[:static], tokens[keep]]),
        times=np.concatenate([subject.times[:static], subject.times[span][keep]]),
        visits=np.concatenate([subject.visits[:static], subject.visits[span][keep]]),
        values=np.concatenate([subject.values[:static], values[keep]]),
    )
