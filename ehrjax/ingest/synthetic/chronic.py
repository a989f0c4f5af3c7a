"""The chronic conditions as the record shows them: their diagnosis codes, drugs and laboratory tests.

What is recorded here is the evidence by which the filter tells the hidden stages apart: which code, which drug
and which value, given the state. All weights and distributions are invented, of a plausible size; names, units
and codes follow ICD-10-CM, RxNorm (ingredients) and LOINC.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Effects = Mapping[str, tuple[float, ...]]


@dataclass(frozen=True)
class Option:
    """One outcome of a categorical mark: its weight is `weight * exp(sum of effects at the state's stages)`."""

    name: str
    weight: float
    effects: Effects = field(default_factory=dict)


@dataclass(frozen=True)
class Condition:
    """A chronic condition as it is recorded.

    Attributes:
      name: diabetes, hypertension, heart_failure, kidney or copd.
      diagnoses: ICD-10-CM codes; whenever the condition is coded, exactly one of them is drawn given the state.
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


@dataclass(frozen=True)
class Lab:
    """A laboratory test or vital sign on a grid of values, normal (or log-normal) around a mean set by the state.

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

# RxNorm concept identifiers of ingredients, by the names used in this package.
RXNORM: dict[str, str] = {
    "metformin": "6809",
    "glipizide": "4821",
    "empagliflozin": "1545653",
    "insulin glargine": "274783",
    "insulin lispro": "86009",
    "lisinopril": "29046",
    "amlodipine": "17767",
    "hydrochlorothiazide": "5487",
    "losartan": "52175",
    "hydralazine": "5470",
    "furosemide": "4603",
    "carvedilol": "20352",
    "spironolactone": "9997",
    "sacubitril": "1656328",
    "torsemide": "38413",
    "finerenone": "2562811",
    "patiromer": "1716203",
    "sevelamer": "214824",
    "calcitriol": "1894",
    "epoetin alfa": "105694",
    "tiotropium": "69120",
    "salmeterol": "36117",
    "fluticasone": "41126",
    "roflumilast": "1091836",
    "influenza vaccine": "1652677",
    "atorvastatin": "83367",
    "azithromycin": "18631",
    "amoxicillin": "723",
    "benzonatate": "18993",
    "guaifenesin": "5032",
    "ibuprofen": "5640",
    "cyclobenzaprine": "21949",
    "naproxen": "7258",
    "gabapentin": "25480",
    "nitrofurantoin": "7454",
    "sulfamethoxazole": "10180",
    "ciprofloxacin": "2551",
    "tamsulosin": "77492",
    "triamcinolone": "10759",
    "hydrocortisone": "5492",
    "cephalexin": "2231",
    "doxycycline": "3640",
    "sertraline": "36437",
    "escitalopram": "321988",
    "trazodone": "10737",
    "lorazepam": "6470",
    "acetaminophen": "161",
    "prednisone": "8640",
    "omeprazole": "7646",
    "famotidine": "4278",
    "polyethylene glycol": "8516",
    "loperamide": "6468",
    "sumatriptan": "37418",
    "meclizine": "6676",
    "cetirizine": "20610",
    "loratadine": "28889",
    "ferrous sulfate": "24947",
    "vitamin d": "11253",
    "levothyroxine": "10582",
    "albuterol": "435",
    "metoprolol": "6918",
    "aspirin": "1191",
    "nitroglycerin": "4917",
    "ondansetron": "26225",
    "morphine": "7052",
    "ketorolac": "35827",
    "oxycodone": "7804",
    "sodium chloride": "9863",
    "ipratropium": "7213",
    "bumetanide": "1808",
    "potassium chloride": "8591",
    "ceftriaxone": "2193",
    "piperacillin": "8339",
    "vancomycin": "11124",
    "norepinephrine": "7512",
    "sodium bicarbonate": "36676",
    "calcium gluconate": "1908",
    "furosemide injection": "1719286",
    "insulin regular": "253182",
    "chlorthalidone": "2409",
    "heparin": "5224",
    "clopidogrel": "32968",
    "enoxaparin": "67108",
    "docusate": "82003",
    "pantoprazole": "40790",
    "cefazolin": "2180",
}
