"""What is refused before an evaluation begins: options that cannot be met, names that clash, events of others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from ehrjax.core.errors import InputError
from ehrjax.data import prepare_tokens
from ehrjax.evals import joined, judged, judging
from ehrjax.evals.baselines import fitting
from ehrjax.evals.judged import Judged
from ehrjax.evals.settings import WHERE_POSSIBLE, Settings
from ehrjax.ingest.meds import TRAIN, TUNING, MedsDataset
from ehrjax.vocab import grammar

ALL = "all"
ORACLE = "oracle"


def given(
    runs: Mapping[str, Any], supervised: Mapping[str, Any], predictions: Mapping[str, str], settings: Settings
) -> None:
    """What can be seen to be missing, or to mean nothing, before a label is read.

    Args:
      runs: name -> an opened run.
      supervised: those of them that were trained on labels.
      predictions: name -> a file or folder.
      settings: everything else.

    Raises:
      InputError: a file does not exist, or an option would be ignored.
    """
    for path in predictions.values():
        for file in judging.files_of(path, settings.split).values():
            if not file.is_file():
                raise InputError(f"The predictions {file} do not exist.")
    for what, path in (("shots", settings.shots), ("groups", settings.group_file), ("events", settings.events)):
        if path and not Path(path).exists():
            raise InputError(f"The {what} {path} do not exist.")
    for site, paths in settings.sites.items():
        for path in paths:
            if not Path(path).exists():
                raise InputError(f"{path} of the site {site} does not exist.")
    trained = "needs a run that was trained on labels; name it as --workdir"
    for option, asked, met, need in (
        ("--robustness", settings.robustness, supervised, trained),
        ("--site", settings.sites, supervised, trained),
        ("--probe", settings.probes, runs, "is fitted on what runs know; name one as --workdir"),
        ("--input", settings.input, runs, "is the tokens of runs; name one as --workdir"),
        ("--shots", settings.shots, settings.few_shot, "is for few-shot curves; add --few_shot"),
        ("--partial", settings.partial, predictions, "is about files of predictions; name one as --predictions"),
        ("--decode", settings.decode, settings.labels, "is about labels; name them as --labels"),
        ("--few_shot", settings.few_shot, runs or settings.events, "needs a run or events; add --workdir or --events"),
        ("--few_shot", settings.few_shot, settings.split not in (TRAIN, TUNING), "is judged by held_out"),
    ):
        if asked and not met:
            raise InputError(f"{option} {need}.")


def baselines(found: Judged, settings: Settings) -> tuple[str, ...]:
    """The names of the baselines to fit.

    Raises:
      InputError: one does not exist for such labels, or there are no events to count; or there are no labels to fit
        them, or probes, on.
    """
    known = fitting.baselines_for(found.target.kind)
    if settings.baselines == (WHERE_POSSIBLE,):
        if TRAIN in found.truth:
            return known
        if settings.probes:
            raise InputError("The labels hold none of the split train, which probes are fitted on.")
        found.warnings.append("There are no labels of train, on which baselines are fitted, so there are none.")
        return ()
    chosen = known if settings.baselines == (ALL,) else settings.baselines
    for name in chosen:
        if name not in known:
            raise InputError(f"--baselines has {name!r}; for these labels there are {', '.join(known)}.")
    if chosen and not settings.events:
        raise InputError("Baselines count events; name the MEDS dataset of the labels as --events.")
    if (chosen or settings.probes) and TRAIN not in found.truth:
        raise InputError("The labels hold none of the split train, which baselines and probes are fitted on.")
    return chosen


def events(dataset: MedsDataset, found: Judged, own: str, *, counted: bool, period: bool = False) -> None:
    """Refuses events without the labels' subjects, and warns of events that are not those of tokens or labels.

    Args:
      dataset: the events, of which baselines, few-shot counts and groups are.
      found: the labels.
      own: the events' fingerprint.
      counted: they are for more than groups.
      period: labels of some time only are judged.

    Raises:
      InputError: a labelled subject has no events, which would make what is counted worse than it is; or a period is
        asked for, and the dates are made up.
    """
    if period and prepare_tokens.times_good_for(dataset) != grammar.DATES:
        raise InputError(
            f"The dates of {dataset.folder} are made up, so there are no periods; leave out --since, --until."
        )
    ids = pl.concat([labels.keys["subject_id"] for labels in found.truth.values()]).unique().sort()
    strangers = ids.filter(~ids.is_in(dataset.splits["subject_id"].implode()))
    if len(strangers):
        lacking = f"{dataset.folder} lacks {len(strangers):,} of {len(ids):,} subjects with labels"
        if counted:
            raise InputError(f"{lacking} (such as {strangers[0]}); name the events that the labels were made from.")
        found.warnings.append(f"{lacking}, so their groups are unknown.")
    told = {found.labels.info.get("dataset", {}).get("fingerprint")}
    told |= {tokens.dataset.info["source_fingerprint"] for tokens in found.tokens.values()}
    if told - {None, own}:
        found.warnings.append(
            f"The events {dataset.folder} are not those that the labels or tokens were made from: baselines may know "
            "more or less than the models, and groups may be others."
        )


def names(made: Sequence[str], found: Judged, settings: Settings) -> None:
    """Names of what is compared: each once, and those that options refer to among them.

    Args:
      made: the names of all entries but the oracle and what is joined.
      found: the labels.
      settings: with `joined` and `reference`.

    Raises:
      InputError: two of one name, an unknown one, nothing at all, joining on labels that are not yes or no, or
        stacking where tuning judges.
    """
    every = [*made, *settings.joined]
    every += [ORACLE] if judged.TRUE_PROBABILITY in found.labels.frame.columns else []
    if twice := sorted({name for name in every if every.count(name) > 1}):
        raise InputError(f"Two models are called {twice[0]}; give one another name (NAME=PATH).")
    if not made:
        raise InputError("Nothing is to be compared: name a --workdir, --predictions, or --events for baselines.")
    known = list(made)
    for name, asked in settings.joined.items():
        if unknown := [member for member in asked.members if member not in known]:
            raise InputError(f"{asked.option} {name} names {unknown[0]!r}; choose {', '.join(known)}.")
        known.append(name)
        if found.target.kind != "yes_no":
            raise InputError(f"{asked.option} {name} is of log odds, and the labels are not yes or no.")
        if asked.stacked and settings.split == TUNING:
            raise InputError(f"--stacked {name} is fitted on tuning, so it cannot be judged by it.")
        if asked.stacked and TUNING not in found.truth:
            raise InputError(f"--stacked {name} is fitted on tuning, of which there are no labels.")
        if asked.stacked:
            joined.check_answers(name, found.truth[TUNING].truth)
    if settings.reference and settings.reference not in every:
        raise InputError(f"--reference is {settings.reference!r}; choose {', '.join(every)}.")
