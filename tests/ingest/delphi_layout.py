"""Made-up histories in Delphi's layout: triples of uint32 and labels.csv."""

from __future__ import annotations

from pathlib import Path

import numpy as np

NAMES = [
    "Padding",
    "No event",
    "Female",
    "Male",
    "BMI_low",
    "BMI_high",
    "Smoking_mid",
    "Alcohol_low",
    "A00 (cholera)",
    "I10 (essential (primary) hypertension)",
    "CXX Unknown Cancer",
    "C00 Malignant neoplasm of lip",
    "Death",
]
CODES = {
    1: "GENDER//Female",
    2: "GENDER//Male",
    3: "BMI//low",
    4: "BMI//high",
    5: "Smoking//mid",
    6: "Alcohol//low",
    7: "DIAGNOSIS//ICD10//A00",
    8: "DIAGNOSIS//ICD10//I10",
    9: "DELPHI//CXX Unknown Cancer",
    10: "DIAGNOSIS//ICD10//C00",
    11: "MEDS_DEATH",
}
NO_EVENT, DEATH = 0, 11


def generate(seed: int, *, patients: int = 20, first: int = 1000) -> np.ndarray:
    """[N, 3] uint32, by patient and age; no two rows of a patient have the same age, and none is padding."""
    rng = np.random.default_rng(seed)
    rows = []
    for patient in range(first, first + patients):
        rows.append((patient, 0, int(rng.integers(1, 3))))
        ages = np.sort(rng.choice(np.arange(1, 30_000), int(rng.integers(1, 9)), replace=False))
        rows += [(patient, int(age), int(rng.integers(3, 11))) for age in ages]
        if rng.random() < 0.4:
            rows.append((patient, int(ages[-1]) + 100, DEATH))
    return np.array(rows, np.uint32)


def write(folder: Path, train: np.ndarray, val: np.ndarray | None = None) -> Path:
    """The input folder."""
    folder.mkdir(parents=True, exist_ok=True)
    train.astype("<u4").tofile(folder / "train.bin")
    if val is not None:
        val.astype("<u4").tofile(folder / "val.bin")
    (folder / "labels.csv").write_text("\n".join(NAMES) + "\n")
    return folder
