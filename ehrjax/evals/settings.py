"""What an evaluation is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

LINEAR, TREES = "linear", "trees"
PROBES = (LINEAR, TREES)
"""Models that are fitted on frozen vectors."""

SHOTS = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 128)
"""EHRSHOT's numbers of positives, and of negatives, of few-shot curves."""

WHERE_POSSIBLE = "where possible"
"""All baselines, if there are events and labels of train."""

BY_LABELS = "labels"
"""What is asked for without labels is what the label folder says it is about."""


@dataclass(frozen=True)
class Joined:
    """Names of entries that are joined to one: by their mean log odds, or by weights that are fitted on tuning."""

    members: tuple[str, ...]
    stacked: bool = False

    @property
    def option(self) -> str:
        """How it is asked for."""
        return "--stacked" if self.stacked else "--together"


@dataclass(frozen=True)
class Settings:
    """What is evaluated, and how.

    Attributes:
      labels: a label folder or file; empty: the truth stands in the files of predictions.
      output: the folder to write.
      split: whose labels judge.
      since, until: the prediction times that judge, from the first until before the second; None: all.
      input: a token dataset for all runs; empty: each run's own.
      events: a MEDS dataset, for baselines and groups; empty: neither.
      decode: see ingest.labels.reading.
      baselines: names of them; empty: none.
      probes: of PROBES, on the frozen vectors of each run.
      zero_shot: CODE@HORIZON, whose risk runs of times to events tell without labels; BY_LABELS: what the labels ask
        about; empty: not wanted.
      joined: name -> entries whose log odds make one too.
      few_shot: sizes k; empty: none.
      shots: EHRSHOT's file of shots; empty: seeded ones.
      group_file, group_columns: further groups.
      robustness: degraded records.
      sites: name -> (tokens, labels) of other sites.
      reference: the name of what differences are taken to; empty: counts with a linear model, else the first.
      resamples, seed: of the bootstrap; the seed draws shots and degradations too.
      force: judge by subjects that a run was trained on.
      partial: leave out labels that a file has no prediction for.
    """

    labels: str
    output: str
    split: str = "held_out"
    since: datetime | None = None
    until: datetime | None = None
    input: str = ""
    events: str = ""
    decode: str = ""
    baselines: tuple[str, ...] = ()
    probes: tuple[str, ...] = ()
    zero_shot: str = ""
    joined: Mapping[str, Joined] = field(default_factory=dict)
    few_shot: tuple[int, ...] = ()
    shots: str = ""
    group_file: str = ""
    group_columns: tuple[str, ...] = ()
    robustness: bool = False
    sites: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    reference: str = ""
    resamples: int = 1000
    seed: int = 0
    force: bool = False
    partial: bool = False
