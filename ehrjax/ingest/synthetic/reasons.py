"""Why people come: the reasons for a visit, each with its rate, diagnoses, laboratory tests and drugs.

The rates and weights are invented, of a plausible size; the diagnosis codes are real ICD-10-CM codes. A rate
is per month for the healthiest person; `effects` add to its logarithm by the stages of `process.COMPONENTS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

ROUTINE, FOLLOW_UP, DETECTION, EMERGENCY, INPATIENT = ("routine", "follow_up", "detection", "emergency", "inpatient")
Effects = Mapping[str, tuple[float, ...]]


@dataclass(frozen=True)
class Reason:
    """One reason for a visit.

    Attributes:
      name: its code is `REASON//<name>`.
      text: the description of that code.
      setting: ROUTINE, FOLLOW_UP, DETECTION (of a chronic condition), EMERGENCY or INPATIENT.
      rate: visits a month of the healthiest person.
      effects: component -> what each stage adds to the log rate.
      diagnoses: ICD-10-CM codes, the most frequent first (weights fall as 1/rank).
      drugs: ingredient names, the most frequent first.
      labs: test names that this reason asks for (each is ordered with probability ORDERED).
      condition: the chronic condition of a FOLLOW_UP or DETECTION, else None.
    """

    name: str
    text: str
    setting: str
    rate: float
    effects: Effects = field(default_factory=dict)
    diagnoses: tuple[str, ...] = ()
    drugs: tuple[str, ...] = ()
    labs: tuple[str, ...] = ()
    condition: str | None = None


ORDERED = 0.7
_FRAIL = {"frailty": (0.0, 0.7)}
_BASIC = ("glucose", "creatinine", "sodium", "potassium", "hemoglobin")
_SICK = (*_BASIC, "leukocytes", "crp", "albumin", "lactate")


def _split(text: str) -> tuple[str, ...]:
    return tuple(text.split())


REASONS: tuple[Reason, ...] = (
    Reason(
        "WELLNESS",
        "Routine health check",
        ROUTINE,
        0.021,
        {},
        _split("Z00.00 Z00.01 Z12.31 Z12.11 Z13.220 Z13.1 Z23 Z13.6 Z01.419 Z12.4 Z71.3 Z72.0 Z68.25 Z68.30"),
        ("influenza vaccine", "atorvastatin"),
        ("glucose", "ldl", "hemoglobin", "a1c"),
    ),
    Reason(
        "RESPIRATORY_INFECTION",
        "Cough, cold or sore throat",
        ROUTINE,
        0.018,
        {**_FRAIL, "pulmonary": (0.0, 0.4)},
        _split("J06.9 J02.9 J20.9 J01.90 J00 J03.90 J04.0 J11.1 J32.9 R05.9 J31.0 J02.0 J30.9 J22"),
        ("azithromycin", "amoxicillin", "benzonatate", "guaifenesin"),
        ("leukocytes", "spo2"),
    ),
    Reason(
        "BACK_PAIN",
        "Back or neck pain",
        ROUTINE,
        0.015,
        _FRAIL,
        _split("M54.50 M54.2 M54.41 M54.16 M54.6 M51.26 M47.816 M48.061 M62.830 M54.12 M53.3 M43.16 M99.03"),
        ("ibuprofen", "cyclobenzaprine", "naproxen", "gabapentin"),
        (),
    ),
    Reason(
        "URINARY",
        "Painful or frequent urination",
        ROUTINE,
        0.0072,
        {"diabetes": (0.0, 0.3, 0.5), **_FRAIL},
        _split("N39.0 N30.00 R30.0 N40.1 R35.0 R31.9 N30.01 N32.81 R39.15 N41.0 N76.0 R33.9 N39.41"),
        ("nitrofurantoin", "sulfamethoxazole", "ciprofloxacin", "tamsulosin"),
        ("creatinine", "leukocytes"),
    ),
    Reason(
        "SKIN",
        "Rash or skin lesion",
        ROUTINE,
        0.009,
        {},
        _split("L30.9 L20.9 L40.0 L23.9 L50.9 B35.1 L57.0 L82.1 L70.0 L72.3 B07.9 L03.115 L21.9 L02.91"),
        ("triamcinolone", "hydrocortisone", "cephalexin", "doxycycline"),
        (),
    ),
    Reason(
        "MOOD",
        "Low mood, worry or poor sleep",
        ROUTINE,
        0.0072,
        {"activity": (0.0, 0.2, 0.4), **_FRAIL},
        _split("F41.1 F32.A F41.9 F33.1 F32.1 G47.00 F43.23 F43.10 F33.0 F40.10 F51.01 F31.9 F90.9"),
        ("sertraline", "escitalopram", "trazodone", "lorazepam"),
        ("tsh",),
    ),
    Reason(
        "JOINT_PAIN",
        "Joint pain",
        ROUTINE,
        0.012,
        _FRAIL,
        _split("M25.561 M17.11 M25.511 M17.12 M16.11 M19.90 M75.101 M10.9 M25.562 M77.11 M72.2 M65.30 M06.9"),
        ("naproxen", "acetaminophen", "ibuprofen", "prednisone"),
        ("crp",),
    ),
    Reason(
        "REFLUX",
        "Heartburn or bowel trouble",
        ROUTINE,
        0.0072,
        {},
        _split("K21.9 K59.00 K58.9 K30 R10.13 K64.9 K29.70 K57.30 R14.0 K52.9 K44.9 K58.0 R13.10"),
        ("omeprazole", "famotidine", "polyethylene glycol", "loperamide"),
        ("hemoglobin",),
    ),
    Reason(
        "HEADACHE",
        "Headache or dizziness",
        ROUTINE,
        0.0072,
        {},
        _split("R51.9 G43.909 R42 G44.209 H81.10 G43.109 G44.1 G43.709 H81.4 R20.2 G56.01 G62.9"),
        ("sumatriptan", "acetaminophen", "meclizine"),
        (),
    ),
    Reason(
        "EYE_EAR",
        "Eye or ear complaint",
        ROUTINE,
        0.0072,
        {},
        _split("H66.90 H61.23 H10.9 H25.13 H52.4 H60.90 H04.123 H40.9 H91.90 H93.13 H01.009 H35.30 H11.30"),
        ("amoxicillin", "cetirizine", "loratadine"),
        (),
    ),
    Reason(
        "FATIGUE",
        "Tiredness or weight change",
        ROUTINE,
        0.0048,
        {"activity": (0.0, 0.6, 0.9), "diabetes": (0.0, 0.3, 0.3), "renal": (0.0, 0.1, 0.6)},
        _split("R53.83 E55.9 D50.9 R63.4 R53.1 D64.9 E66.9 E53.8 R63.5 D51.9 E66.01 R63.0"),
        ("ferrous sulfate", "vitamin d"),
        ("hemoglobin", "tsh", "glucose", "albumin", "creatinine", "bnp", "a1c"),
    ),
    Reason(
        "THYROID",
        "Thyroid review",
        ROUTINE,
        0.0036,
        {},
        _split("E03.9 E04.1 E05.90 E06.3 E04.2 E89.0 E78.5 E78.00 E78.2"),
        ("levothyroxine",),
        ("tsh", "ldl"),
    ),
    Reason(
        "BREATHLESS",
        "Breathlessness or swelling",
        ROUTINE,
        0.0024,
        {"cardiac": (0.0, 0.1, 0.9, 1.1), "pulmonary": (0.0, 0.8), "activity": (0.0, 0.9, 1.3)},
        _split("R06.02 R60.0 R06.09 R06.2 R00.2 I48.91 R60.9 I49.9 R06.83 I87.2 I34.0 I48.0"),
        ("chlorthalidone", "albuterol", "metoprolol"),
        ("bnp", "spo2", "creatinine", "hemoglobin"),
    ),
    *(
        Reason(
            f"REVIEW_{name}",
            f"Review of {text}",
            FOLLOW_UP,
            rate,
            {"activity": (0.0, 0.4, 0.6)},
            (),
            (),
            labs,
            condition,
        )
        for name, text, rate, labs, condition in (
            ("DIABETES", "diabetes", 0.11, ("a1c", "glucose", "creatinine", "ldl"), "diabetes"),
            ("HYPERTENSION", "blood pressure", 0.06, ("creatinine", "potassium", "sodium"), "hypertension"),
            ("HEART_FAILURE", "heart failure", 0.14, ("bnp", "creatinine", "potassium", "sodium"), "heart_failure"),
            ("KIDNEY", "kidney disease", 0.10, ("creatinine", "potassium", "hemoglobin", "albumin"), "kidney"),
            ("COPD", "lung disease", 0.08, ("spo2", "crp"), "copd"),
        )
    ),
    *(
        Reason(f"EVALUATION_{name}", f"Evaluation for {text}", DETECTION, rate, effects, (), (), labs, condition)
        for name, text, rate, effects, labs, condition in (
            (
                "DIABETES",
                "diabetes",
                0.00012,
                {"diabetes": (0.0, 5.0, 6.6), "activity": (0.0, 0.2, 0.4)},
                ("a1c", "glucose"),
                "diabetes",
            ),
            (
                "HYPERTENSION",
                "high blood pressure",
                0.0008,
                {"cardiac": (0.0, 4.0, 4.6, 4.6)},
                ("creatinine", "potassium"),
                "hypertension",
            ),
            (
                "HEART_FAILURE",
                "heart failure",
                0.00004,
                {"cardiac": (0.0, 0.7, 6.4, 7.8), "activity": (0.0, 1.1, 1.8)},
                ("bnp", "creatinine"),
                "heart_failure",
            ),
            ("KIDNEY", "kidney disease", 0.0001, {"renal": (0.0, 5.4, 7.0)}, ("creatinine", "albumin"), "kidney"),
            ("COPD", "lung disease", 0.0002, {"pulmonary": (0.0, 5.0), "activity": (0.0, 0.7, 1.0)}, ("spo2",), "copd"),
        )
    ),
    Reason(
        "CHEST_PAIN",
        "Chest pain",
        EMERGENCY,
        0.0020,
        {"cardiac": (0.0, 0.5, 1.0, 1.2), "activity": (0.0, 0.6, 0.9)},
        _split("R07.9 R07.89 R07.2 I20.9 I25.10 R07.1 I20.0 R09.1 I25.119 R07.81 M94.0"),
        ("aspirin", "nitroglycerin", "acetaminophen"),
        (*_BASIC, "troponin", "bnp"),
    ),
    Reason(
        "ABDOMINAL_PAIN",
        "Abdominal pain or vomiting",
        EMERGENCY,
        0.0025,
        {"frailty": (0.0, 0.6)},
        _split("R10.9 R11.2 K52.9 R10.84 R10.31 K80.20 A09 R11.10 R10.11 K85.90 K56.609 R19.7"),
        ("ondansetron", "morphine", "ketorolac"),
        (*_BASIC, "leukocytes", "crp"),
    ),
    Reason(
        "INJURY",
        "Fall or injury",
        EMERGENCY,
        0.0030,
        {"frailty": (0.0, 0.9)},
        _split(
            "S09.90XA S93.401A S61.219A S01.81XA S52.501A S80.01XA S00.83XA S60.221A S82.61XA S43.401A "
            "S20.219A S83.91XA S62.609A"
        ),
        ("ibuprofen", "oxycodone", "cephalexin"),
        (),
    ),
    Reason(
        "SYNCOPE",
        "Fainting or palpitations",
        EMERGENCY,
        0.0010,
        {"frailty": (0.0, 0.6), "cardiac": (0.0, 0.3, 0.8, 1.2), "activity": (0.0, 0.3, 0.5)},
        _split("R55 R00.2 I95.1 I48.91 R00.1 R00.0 E86.0 I95.9 R56.9 I47.10"),
        ("metoprolol", "sodium chloride"),
        (*_BASIC, "troponin"),
    ),
    Reason(
        "BREATHLESS_EMERGENCY",
        "Acute breathlessness",
        EMERGENCY,
        0.0010,
        {"cardiac": (0.0, 0.2, 1.0, 1.4), "pulmonary": (0.0, 1.2), "activity": (0.0, 1.1, 1.7)},
        _split("R06.00 R06.03 J45.901 R09.02 J98.01 J81.0 R06.89 R06.82 J45.909"),
        ("albuterol", "prednisone", "furosemide injection", "ipratropium"),
        (*_BASIC, "bnp", "spo2", "leukocytes"),
    ),
    Reason(
        "RENAL_COLIC",
        "Flank pain",
        EMERGENCY,
        0.0008,
        {},
        _split("N20.0 N20.1 N13.2 N23 R10.32 N10 N13.30"),
        ("ketorolac", "tamsulosin", "ondansetron"),
        ("creatinine", "leukocytes", "potassium"),
    ),
    Reason(
        "CARDIAC_ADMISSION",
        "Worsening heart function",
        INPATIENT,
        0.00011,
        {"cardiac": (0.0, 0.5, 2.6, 3.5), "renal": (0.0, 0.2, 0.5), "activity": (0.0, 1.5, 2.7), "frailty": (0.0, 0.3)},
        _split("I48.20 J81.0 I42.9 I27.20 I42.0 I25.5 I51.81 R57.0 I11.9 I48.19"),
        ("furosemide injection", "bumetanide", "metoprolol", "potassium chloride"),
        (*_BASIC, "bnp", "troponin", "albumin"),
    ),
    Reason(
        "LUNG_ADMISSION",
        "Worsening lung function",
        INPATIENT,
        0.00016,
        {"pulmonary": (0.0, 2.6), "activity": (0.0, 1.4, 2.4), "frailty": (0.0, 0.4)},
        _split("J96.01 J96.21 J96.02 J43.9 J47.1 J98.11 J96.22 J93.9 J90"),
        ("prednisone", "albuterol", "ipratropium", "azithromycin"),
        (*_SICK, "spo2"),
    ),
    Reason(
        "PNEUMONIA",
        "Fever and cough",
        INPATIENT,
        0.00033,
        {"pulmonary": (0.0, 0.8), "activity": (0.0, 0.9, 1.6), "frailty": (0.0, 0.8), "diabetes": (0.0, 0.2, 0.4)},
        _split("J18.9 J15.9 J69.0 J18.1 J12.82 J13 J15.1 J10.00 J18.0 J85.1"),
        ("ceftriaxone", "azithromycin", "piperacillin", "vancomycin"),
        (*_SICK, "spo2"),
    ),
    Reason(
        "SEPSIS",
        "Severe infection",
        INPATIENT,
        0.00022,
        {"activity": (0.0, 1.0, 1.9), "frailty": (0.0, 0.9), "diabetes": (0.0, 0.4, 0.8), "renal": (0.0, 0.3, 0.8)},
        _split("A41.9 A41.51 A41.01 R65.20 A40.9 L03.116 R65.21 A41.02 N12 A41.89 R78.81 M86.9"),
        ("vancomycin", "piperacillin", "ceftriaxone", "norepinephrine"),
        _SICK,
    ),
    Reason(
        "KIDNEY_ADMISSION",
        "Worsening kidney function",
        INPATIENT,
        0.00011,
        {"renal": (0.0, 1.5, 2.6), "cardiac": (0.0, 0.2, 0.6, 0.9), "activity": (0.0, 1.3, 2.3)},
        _split("N17.9 E87.5 E87.1 N17.0 E87.70 E86.0 E87.20 D63.1 N19 E83.39 E87.6"),
        ("sodium bicarbonate", "furosemide injection", "calcium gluconate", "sodium chloride"),
        (*_BASIC, "albumin"),
    ),
    Reason(
        "DIABETES_ADMISSION",
        "Very high or low glucose",
        INPATIENT,
        0.00006,
        {"diabetes": (0.0, 2.2, 3.4), "activity": (0.0, 1.2, 1.9)},
        _split("R73.9 E86.0 E87.29 R40.20 L97.509 L97.529 E16.2 I70.209 E87.8"),
        ("insulin regular", "sodium chloride", "potassium chloride"),
        (*_BASIC, "a1c", "lactate"),
    ),
    Reason(
        "INFARCTION",
        "Crushing chest pain",
        INPATIENT,
        0.00022,
        {"cardiac": (0.0, 0.7, 1.2, 1.5), "diabetes": (0.0, 0.4, 0.8), "activity": (0.0, 0.4, 0.7)},
        _split("I21.4 I21.19 I21.09 I25.110 I21.3 I24.9 I25.2 I21.A1 I46.9"),
        ("aspirin", "heparin", "clopidogrel", "atorvastatin", "metoprolol"),
        (*_BASIC, "troponin", "bnp", "ldl"),
    ),
    Reason(
        "STROKE",
        "Sudden weakness or confusion",
        INPATIENT,
        0.00016,
        {"cardiac": (0.0, 0.7, 0.9, 1.0), "diabetes": (0.0, 0.3, 0.6), "frailty": (0.0, 0.6)},
        _split("I63.9 G45.9 I63.511 I61.9 I63.411 R41.0 G93.41 I63.512 R47.01 G81.91 F05 I69.351"),
        ("aspirin", "clopidogrel", "atorvastatin", "enoxaparin"),
        (*_BASIC, "ldl"),
    ),
    Reason(
        "FRACTURE",
        "Broken hip or spine",
        INPATIENT,
        0.00016,
        {"frailty": (0.0, 1.4)},
        _split("S72.001A S72.141A S72.002A S32.010A S72.142A S22.080A S42.201A M80.08XA S32.9XXA W19.XXXA"),
        ("oxycodone", "enoxaparin", "acetaminophen", "docusate"),
        (*_BASIC, "albumin"),
    ),
    Reason(
        "BLEEDING",
        "Gastrointestinal bleeding",
        INPATIENT,
        0.00016,
        {"frailty": (0.0, 0.6), "renal": (0.0, 0.4, 0.8), "activity": (0.0, 0.3, 0.6)},
        _split("K92.2 K92.1 D62 K25.4 K57.31 K92.0 K31.811 I85.01 K55.21 K62.5"),
        ("pantoprazole", "sodium chloride", "ferrous sulfate"),
        (*_BASIC, "lactate"),
    ),
    Reason(
        "SURGERY",
        "Planned operation",
        INPATIENT,
        0.00066,
        {"frailty": (0.0, 0.2)},
        _split("M17.11 K80.10 M16.12 K40.90 K35.80 M48.062 C18.9 C50.911 C61 D25.9 N81.2 K43.9 Z47.1"),
        ("cefazolin", "oxycodone", "acetaminophen", "ondansetron", "docusate"),
        _BASIC,
    ),
)
