"""The chronic conditions as the record shows them: their diagnosis codes and drugs.

What is recorded here is the evidence by which the filter tells the hidden stages apart: which code and
which drug, given the state. All weights are invented, of a plausible size; the diagnosis codes are ICD-10-CM.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ehrjax.ingest.synthetic.reasons import Effects


@dataclass(frozen=True)
class Option:
    """One outcome of a categorical mark, with weight `weight * exp(sum of effects at the state's stages)`."""

    name: str
    weight: float
    effects: Effects = field(default_factory=dict)


@dataclass(frozen=True)
class Condition:
    """A chronic condition as it is recorded.

    Attributes:
      name: diabetes, hypertension, heart_failure, kidney or copd.
      diagnoses: ICD-10-CM codes; whenever the condition is coded, exactly one of them is drawn given the
        state.
      drugs: ingredients; whenever its treatment is renewed, exactly one is drawn given the state.
    """

    name: str
    diagnoses: tuple[Option, ...]
    drugs: tuple[Option, ...]


CONDITIONS: tuple[Condition, ...] = (
    Condition(
        "diabetes",
        (
            Option("E11.9", 1.0, {"diabetes": (0.0, 0.0, -1.6)}),
            Option("E11.65", 0.18, {"diabetes": (0.0, 0.0, 1.0), "activity": (0.0, 0.7, 1.2)}),
            Option("E11.22", 0.06, {"diabetes": (0.0, 0.0, 1.2), "renal": (0.0, 1.2, 1.6)}),
            Option("E11.40", 0.06, {"diabetes": (0.0, 0.0, 1.6)}),
            Option("E11.319", 0.05, {"diabetes": (0.0, 0.0, 1.6)}),
            Option("E11.51", 0.03, {"diabetes": (0.0, 0.0, 1.5)}),
            Option("E11.8", 0.05, {"diabetes": (0.0, 0.0, 0.6)}),
        ),
        (
            Option("metformin", 1.0, {"diabetes": (0.0, 0.0, -0.8), "renal": (0.0, -0.3, -2.0)}),
            Option("glipizide", 0.35, {"diabetes": (0.0, 0.0, 0.2)}),
            Option("empagliflozin", 0.20, {"diabetes": (0.0, 0.0, 0.5), "cardiac": (0.0, 0.0, 0.9, 0.9)}),
            Option("insulin glargine", 0.10, {"diabetes": (0.0, 0.0, 2.2)}),
            Option("insulin lispro", 0.04, {"diabetes": (0.0, 0.0, 2.4)}),
        ),
    ),
    Condition(
        "hypertension",
        (
            Option("I10", 1.0, {"cardiac": (0.0, 0.0, -0.7, -1.0), "renal": (0.0, -0.4, -0.8)}),
            Option("I11.0", 0.04, {"cardiac": (0.0, 0.0, 2.2, 2.4)}),
            Option("I12.9", 0.05, {"renal": (0.0, 1.6, 1.8)}),
            Option("I13.0", 0.02, {"cardiac": (0.0, 0.0, 1.8, 2.2), "renal": (0.0, 1.4, 1.8)}),
            Option("I16.0", 0.02, {"activity": (0.0, 1.0, 1.4)}),
        ),
        (
            Option("lisinopril", 1.0, {"renal": (0.0, 0.0, -0.8)}),
            Option("amlodipine", 0.8),
            Option("hydrochlorothiazide", 0.6, {"renal": (0.0, -0.4, -1.2)}),
            Option("losartan", 0.5),
            Option("hydralazine", 0.08, {"renal": (0.0, 0.5, 1.4)}),
        ),
    ),
    Condition(
        "heart_failure",
        (
            Option("I50.9", 1.0),
            Option("I50.22", 0.6, {"cardiac": (0.0, 0.0, 0.0, 0.6)}),
            Option("I50.32", 0.5),
            Option("I50.23", 0.08, {"cardiac": (0.0, 0.0, 0.0, 0.7), "activity": (0.0, 1.4, 2.4)}),
            Option("I50.33", 0.08, {"activity": (0.0, 1.4, 2.4)}),
            Option("I50.84", 0.01, {"cardiac": (0.0, 0.0, 0.0, 2.4)}),
        ),
        (
            Option("furosemide", 1.0, {"activity": (0.0, 0.2, 0.3)}),
            Option("carvedilol", 0.9),
            Option("spironolactone", 0.4, {"cardiac": (0.0, 0.0, 0.0, 0.6), "renal": (0.0, 0.0, -1.0)}),
            Option("sacubitril", 0.25, {"cardiac": (0.0, 0.0, 0.0, 0.8)}),
            Option("torsemide", 0.15, {"activity": (0.0, 0.7, 1.2), "cardiac": (0.0, 0.0, 0.0, 0.8)}),
        ),
    ),
    Condition(
        "kidney",
        (
            Option("N18.30", 1.0, {"renal": (0.0, 0.0, -2.0)}),
            Option("N18.31", 0.7, {"renal": (0.0, 0.0, -2.4)}),
            Option("N18.32", 0.5, {"renal": (0.0, 0.0, -0.8)}),
            Option("N18.4", 0.08, {"renal": (0.0, 0.0, 2.4)}),
            Option("N18.5", 0.02, {"renal": (0.0, 0.0, 3.0)}),
            Option("N18.9", 0.5),
        ),
        (
            Option("finerenone", 1.0, {"renal": (0.0, 0.0, -0.6)}),
            Option("patiromer", 0.2, {"renal": (0.0, 0.0, 1.2)}),
            Option("sevelamer", 0.08, {"renal": (0.0, 0.0, 2.0)}),
            Option("calcitriol", 0.2, {"renal": (0.0, 0.0, 1.2)}),
            Option("epoetin alfa", 0.04, {"renal": (0.0, 0.0, 2.0)}),
        ),
    ),
    Condition(
        "copd",
        (
            Option("J44.9", 1.0),
            Option("J44.1", 0.15, {"activity": (0.0, 1.4, 2.2)}),
            Option("J44.0", 0.08, {"activity": (0.0, 1.2, 2.0)}),
        ),
        (
            Option("tiotropium", 1.0),
            Option("salmeterol", 0.5),
            Option("fluticasone", 0.5, {"activity": (0.0, 0.5, 0.7)}),
            Option("roflumilast", 0.08, {"activity": (0.0, 0.8, 1.2)}),
        ),
    ),
)

DISPOSITIONS: tuple[Option, ...] = (
    Option("HOME", 1.0),
    Option("HOME_HEALTH", 0.25, {"frailty": (0.0, 0.8), "activity": (0.0, 0.2, 0.5)}),
    Option("SKILLED_NURSING", 0.08, {"frailty": (0.0, 1.6), "activity": (0.0, 0.3, 0.8)}),
    Option("REHABILITATION", 0.06, {"frailty": (0.0, 0.9)}),
)
