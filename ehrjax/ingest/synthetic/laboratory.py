"""Laboratory tests and vital signs, and how their values follow the hidden state.

The distributions are invented, of a plausible size; names, units and codes follow LOINC.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ehrjax.ingest.synthetic.reasons import Effects


@dataclass(frozen=True)
class Lab:
    """A test or vital sign on a grid of values, normal (or log-normal) around a mean set by the state.

    Attributes:
      name: short name used by `reasons`.
      loinc, text, unit: its code is `LOINC//<loinc>//<unit>`.
      low, high, step: the grid of recorded values, in `unit`.
      mean, deviation: of the value, or of its natural logarithm where `log`.
      effects: component -> what each stage adds to the mean.
      log: whether the value is log-normal.
    """

    name: str
    loinc: str
    text: str
    unit: str
    low: float
    high: float
    step: float
    mean: float
    deviation: float
    effects: Effects = field(default_factory=dict)
    log: bool = False

    @property
    def code(self) -> str:
        return f"LOINC//{self.loinc}//{self.unit}"


# The constitution shifts a person's usual values for good, so one value alone says less than its course.
LABS: tuple[Lab, ...] = (
    Lab(
        "a1c",
        "4548-4",
        "Hemoglobin A1c in blood",
        "%",
        4.0,
        15.0,
        0.1,
        5.3,
        0.42,
        {"diabetes": (0.0, 0.85, 2.4), "constitution": (0.0, 0.75)},
    ),
    Lab(
        "glucose",
        "2345-7",
        "Glucose in serum or plasma",
        "mg/dL",
        40,
        600,
        2,
        4.56,
        0.17,
        {"diabetes": (0.0, 0.16, 0.48), "activity": (0.0, 0.06, 0.14), "constitution": (0.0, 0.1)},
        True,
    ),
    Lab(
        "creatinine",
        "2160-0",
        "Creatinine in serum or plasma",
        "mg/dL",
        0.3,
        12.0,
        0.05,
        -0.25,
        0.15,
        {"renal": (0.0, 0.40, 1.05), "activity": (0.0, 0.10, 0.26), "constitution": (0.0, 0.34)},
        True,
    ),
    Lab(
        "bnp",
        "30934-4",
        "Natriuretic peptide B in serum or plasma",
        "pg/mL",
        10,
        6000,
        10,
        3.5,
        0.65,
        {"cardiac": (0.0, 0.3, 1.3, 2.1), "activity": (0.0, 0.6, 1.3), "constitution": (0.0, 0.9)},
        True,
    ),
    Lab(
        "hemoglobin",
        "718-7",
        "Hemoglobin in blood",
        "g/dL",
        4,
        20,
        0.1,
        13.9,
        1.2,
        {"renal": (0.0, -0.7, -2.6), "frailty": (0.0, -0.6), "activity": (0.0, -0.2, -0.6)},
    ),
    Lab(
        "leukocytes",
        "6690-2",
        "Leukocytes in blood",
        "10*3/uL",
        1,
        40,
        0.2,
        1.95,
        0.28,
        {"activity": (0.0, 0.15, 0.36)},
        True,
    ),
    Lab(
        "crp",
        "1988-5",
        "C reactive protein in serum or plasma",
        "mg/L",
        0.5,
        300,
        0.5,
        1.1,
        0.75,
        {"activity": (0.0, 0.8, 1.7), "constitution": (0.0, 0.7)},
        True,
    ),
    Lab(
        "potassium",
        "2823-3",
        "Potassium in serum or plasma",
        "mmol/L",
        2.5,
        7.5,
        0.1,
        4.1,
        0.35,
        {"renal": (0.0, 0.2, 0.6)},
    ),
    Lab(
        "sodium",
        "2951-2",
        "Sodium in serum or plasma",
        "mmol/L",
        115,
        160,
        1,
        140,
        2.6,
        {"cardiac": (0.0, 0.0, -1.0, -2.5), "activity": (0.0, -1.0, -2.5)},
    ),
    Lab(
        "albumin",
        "1751-7",
        "Albumin in serum or plasma",
        "g/dL",
        1,
        6,
        0.1,
        4.3,
        0.3,
        {"frailty": (0.0, -0.4), "activity": (0.0, -0.2, -0.5)},
    ),
    Lab(
        "lactate",
        "2524-7",
        "Lactate in serum or plasma",
        "mmol/L",
        0.3,
        20,
        0.1,
        0.3,
        0.35,
        {"activity": (0.0, 0.2, 0.6)},
        True,
    ),
    Lab(
        "troponin",
        "10839-9",
        "Troponin I in serum or plasma",
        "ng/mL",
        0.01,
        5,
        0.01,
        -3.6,
        0.7,
        {"cardiac": (0.0, 0.1, 0.5, 0.9), "activity": (0.0, 0.3, 0.7)},
        True,
    ),
    Lab(
        "ldl",
        "13457-7",
        "Cholesterol in LDL, calculated",
        "mg/dL",
        20,
        300,
        1,
        115,
        28,
        {"diabetes": (0.0, 5.0, 5.0)},
    ),
    Lab("tsh", "3016-3", "Thyrotropin in serum or plasma", "mIU/L", 0.05, 20, 0.05, 0.6, 0.5, {}, True),
    Lab(
        "systolic",
        "8480-6",
        "Systolic blood pressure",
        "mm[Hg]",
        70,
        240,
        1,
        122,
        11,
        {"cardiac": (0.0, 15.0, 8.0, -4.0), "activity": (0.0, 2.0, -3.0)},
    ),
    Lab(
        "diastolic",
        "8462-4",
        "Diastolic blood pressure",
        "mm[Hg]",
        35,
        140,
        1,
        76,
        8,
        {"cardiac": (0.0, 7.0, 2.0, -2.0)},
    ),
    Lab(
        "spo2",
        "59408-5",
        "Oxygen saturation by pulse oximetry",
        "%",
        70,
        100,
        1,
        97.5,
        1.1,
        {"pulmonary": (0.0, -2.2), "cardiac": (0.0, 0.0, -0.6, -1.4), "activity": (0.0, -1.0, -2.6)},
    ),
    Lab(
        "bmi",
        "39156-5",
        "Body mass index",
        "kg/m2",
        12,
        60,
        0.1,
        26.5,
        4.5,
        {"diabetes": (0.0, 2.5, 3.5), "frailty": (0.0, -1.0)},
    ),
)
