"""Which codes of a dataset mean what: an admission, a discharge, a diagnosis, a laboratory test.

A MEDS dataset says it in metadata/dataset.json:

    "roles": {"admission": ["HOSPITAL_ADMISSION(//|$)"], "discharge": ["HOSPITAL_DISCHARGE(//|$)"], ...}

Each value is a list of regular expressions that match a code from its start. What a dataset does not say is
taken from DEFAULTS, which hold for the datasets that ehrjax writes and for the code names that are usual in
MEDS. Births and deaths need no role: MEDS itself names their codes.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import polars as pl

from ehrjax.core.errors import InputError
from ehrjax.ingest.meds import MedsDataset

# The roles that ehrjax uses and what they mean; a dataset may name more for tasks of its own.
MEANINGS = {
    "admission": "a stay in hospital begins",
    "discharge": "a stay in hospital ends, alive or not",
    "discharge_dead": "a stay in hospital ends in death (a part of discharge)",
    "icu_admission": "intensive care begins",
    "icu_discharge": "intensive care ends",
    "emergency": "a visit to the emergency department begins",
    "outpatient": "an outpatient visit",
    "diagnosis": "a diagnosis",
    "procedure": "a procedure",
    "medication": "a drug is ordered, dispensed or given",
    "lab": "a laboratory result or another measurement",
    "female": "the subject is female",
    "male": "the subject is male",
}

MIMIC_IV: dict[str, list[str]] = {
    "admission": ["HOSPITAL_ADMISSION(//|$)"],
    "discharge": ["HOSPITAL_DISCHARGE(//|$)"],
    "discharge_dead": ["HOSPITAL_DISCHARGE//DIED$"],
    "icu_admission": ["ICU_ADMISSION(//|$)"],
    "icu_discharge": ["ICU_DISCHARGE(//|$)"],
    "emergency": ["TRANSFER//ED//"],
    "diagnosis": ["DIAGNOSIS//"],
    "procedure": ["PROCEDURE//", "ICU_PROCEDURE//", "HCPCS//"],
    "medication": ["MEDICATION//"],
    "lab": ["LAB//"],
    "female": ["GENDER//F$"],
    "male": ["GENDER//M$"],
}

SYNTHETIC: dict[str, list[str]] = {
    "admission": ["ENCOUNTER//INPATIENT$"],
    "discharge": ["DISCHARGE//"],
    "discharge_dead": ["DISCHARGE//DIED$"],
    "emergency": ["ENCOUNTER//EMERGENCY$"],
    "outpatient": ["ENCOUNTER//OUTPATIENT$"],
    # The second site of the synthetic hospital has codes of its own.
    "diagnosis": ["ICD10CM//", "ICD10//"],
    "medication": ["RXNORM//", "DRUG//"],
    "lab": ["LOINC//", "LAB//"],
    "female": ["GENDER//F$"],
    "male": ["GENDER//M$"],
}

# No pattern of one source matches a code of the other with another meaning, so both can stand together.
DEFAULTS: dict[str, list[str]] = {
    name: list(dict.fromkeys([*MIMIC_IV.get(name, ()), *SYNTHETIC.get(name, ())]))
    for name in MEANINGS
    if name in MIMIC_IV or name in SYNTHETIC
}


def pattern_of(patterns: Iterable[str]) -> str:
    """One regular expression that finds any of several (Rust's syntax, no look-around) at a text's start."""
    joined = "|".join(f"(?:{pattern})" for pattern in patterns)
    return f"^(?:{joined})" if joined else "[^\\s\\S]"


def matching(codes: pl.Series, patterns: Iterable[str]) -> pl.Series:
    """Which codes [N] match one of the regular expressions from their start: [N] bool, all false if there are none."""
    return codes.str.contains(pattern_of(patterns))


def check_patterns(patterns: object, where: str) -> tuple[str, ...]:
    """The patterns as a tuple.

    Args:
      patterns: a list of regular expressions; a single text is a list of one.
      where: what holds them, for the message.

    Raises:
      InputError: it is no list of texts, or one of them is no regular expression.
    """
    given = (patterns,) if isinstance(patterns, str) else patterns
    if not isinstance(given, (list, tuple)) or not all(isinstance(pattern, str) and pattern for pattern in given):
        raise InputError(f"{where} must be a list of regular expressions, not {patterns!r}.")
    for pattern in given:
        try:
            pl.Series([""]).str.contains(pattern)
        except pl.exceptions.ComputeError as error:
            raise InputError(f"{where} holds {pattern!r}, which is no regular expression.") from error
    return tuple(given)


@dataclass(frozen=True)
class Roles:
    """The codes of a dataset by role.

    Attributes:
      patterns: role -> regular expressions that match a code from its start.
    """

    patterns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def get(self, role: str) -> tuple[str, ...]:
        """The patterns of a role; none if the dataset lacks it."""
        return tuple(self.patterns.get(role, ()))

    def present(self, codes: pl.Series) -> Roles:
        """Only the roles that some of the dataset's codes have."""
        return Roles({name: given for name, given in self.patterns.items() if matching(codes, given).any()})

    def need(self, role: str, *, task: str, codes: pl.Series | None = None) -> tuple[str, ...]:
        """The patterns of a role that a task cannot do without.

        Args:
          role: its name.
          task: the task's name, for the message.
          codes: the dataset's codes, one of which must match; None: not checked.

        Raises:
          InputError: the dataset has no such role, or none of its codes matches.
        """
        patterns = self.get(role)
        if patterns and (codes is None or matching(codes, patterns).any()):
            return patterns
        lacking = f"no code matches {', '.join(patterns)}" if patterns else "the dataset has none"
        raise InputError(
            f"The task {task} needs codes of the role {role!r} ({MEANINGS.get(role, 'a role of its own')}), but "
            f'{lacking}; give them by --config.roles.{role}="(\'REGEX\',)" or under "roles" in metadata/dataset.json.'
        )


def of(dataset: MedsDataset, overrides: Mapping[str, object] | None = None) -> Roles:
    """The roles of a dataset: what the caller gives, else what dataset.json says, else DEFAULTS.

    Args:
      dataset: an opened MEDS dataset.
      overrides: role -> regular expressions; an empty list leaves the role as it is.

    Raises:
      InputError: an entry is no list of regular expressions, or an override has a name that no role has.
    """
    path = dataset.folder / "metadata" / "dataset.json"
    own = dataset.metadata.get("roles", {})
    if not isinstance(own, dict):
        raise InputError(f'{path}: "roles" must be an object of lists of regular expressions.')
    found = {name: tuple(patterns) for name, patterns in DEFAULTS.items()}
    found |= {name: check_patterns(patterns, f'{path}: "roles": {name!r}') for name, patterns in own.items()}
    for name, patterns in (overrides or {}).items():
        if name not in MEANINGS and name not in own:
            close = difflib.get_close_matches(name, [*MEANINGS, *own], n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(MEANINGS)}."
            raise InputError(f"config.roles has no role {name!r}; {hint}")
        if checked := check_patterns(patterns, f"config.roles.{name}"):
            found[name] = checked
    return Roles(found)
