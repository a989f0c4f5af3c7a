"""Made-up rows of a local warehouse, of claims and of UK Biobank, for the mappings in configs/tables."""

from __future__ import annotations

from datetime import datetime, timedelta

import numpy as np
import polars as pl

Frames = dict[str, pl.DataFrame]


def _frames(rows: dict[str, list[dict[str, object]]]) -> Frames:
    return {
        name: pl.DataFrame(
            [{k: None if v in ("", None) else str(v) for k, v in row.items()} for row in found],
            infer_schema_length=None,
        ).cast(pl.String)
        for name, found in rows.items()
    }


def warehouse(seed: int, *, patients: int = 5) -> Frames:
    rng = np.random.default_rng(seed)
    rows: dict[str, list[dict[str, object]]] = {}

    def add(table: str, **row: object) -> None:
        rows.setdefault(table, []).append(row)

    def some(*values: object) -> object:
        return values[int(rng.integers(len(values)))]

    stay = 500
    for number in range(patients):
        patient = f"P-{number:05d}"
        at = datetime(2015, 1, 5, 8) + timedelta(days=int(rng.integers(100)))
        for _ in range(int(rng.integers(1, 4))):
            stay += 1
            left = at + timedelta(hours=int(rng.integers(5, 100)))
            who = {"patient_id": patient, "encounter_id": stay}
            status = some("closed", "closed", "cancelled")
            add("encounters", **who, status=status, kind=some("URGENT", ""), admitted_at=at, discharged_at=left,
                disposition=some("HOME", "DECEASED", ""))  # fmt: skip
            for _ in range(int(rng.integers(1, 4))):
                during = at + timedelta(minutes=int(rng.integers(-200, 300)))
                add("lab_results", **who, taken_at=during, test=some("2345-7", "718-7"), test_name=some("Glucose", ""),
                    result=some("5.5", "<0.1", "positive", ""), unit=some("mmol/L", ""))  # fmt: skip
                add("prescriptions", **{**who, "encounter_id": some(stay, "")}, ordered_at=during, drug="Aspirin 100")
            add("diagnoses", **who, icd10=some("E119", "I10", ""), coded_on=f"{at:%Y-%m-%d}")
            at = left + timedelta(days=int(rng.integers(1, 99)))
        add("patients", patient_id=patient, sex=some(1, 2), birth_date="1961-07-02",
            death_date=f"{at:%Y-%m-%d}" if number % 2 else "")  # fmt: skip
    add("icd10_titles", code="E119", title="Type 2 diabetes")
    return _frames(rows)


def claims(seed: int) -> Frames:
    rng = np.random.default_rng(seed)
    members, medical, pharmacy = [], [], []
    for member in range(10, 14):
        members.append({"member_id": member, "gender": "F", "date_of_birth": "19550321"})
        for claim in range(3):
            start = datetime(2018, 2, 3) + timedelta(days=int(rng.integers(300)))
            row = {
                "member_id": member,
                "claim_id": member * 100 + claim,
                "service_from": f"{start:%Y%m%d}",
                "service_to": f"{start + timedelta(days=int(rng.integers(5))):%Y%m%d}",
                "place_of_service": str(rng.choice(["21", "11", "99"])),
                "claim_status": str(rng.choice(["P", "P", "D"])),
                "dx1": "I10",
                "dx2": str(rng.choice(["E119", ""])),
                "dx3": "",
                "proc1": str(rng.choice(["99213", ""])),
            }
            medical.append(row)
        fill = {"member_id": member, "fill_date": "20180401", "ndc": "00093721401", "drug_name": "Metformin"}
        pharmacy.append({**fill, "days_supply": "30"})
    return _frames({"members": members, "medical_claims": medical, "pharmacy_claims": pharmacy})


def biobank() -> Frames:
    main = {
        "eid": "1000017",
        "31-0.0": "0",
        "34-0.0": "1951",
        "53-0.0": "2008-05-06",
        "53-1.0": "2013-01-02",
        "21001-0.0": "27.1",
        "21001-1.0": "",
        "41270-0.0": "I10",
        "41280-0.0": "2009-11-30",
        "41270-0.1": "E11.9",
        "41280-0.1": "2014-02-03",
        "40000-0.0": "2021-03-04",
    }
    other = dict.fromkeys(main, "") | {"eid": "1000025", "31-0.0": "1", "34-0.0": "1944"}
    clinical = {"eid": "1000017", "event_dt": "17/03/2004", "read_2": "246..", "read_3": "", "value1": "140"}
    return _frames({"ukb": [main, other], "gp_clinical": [clinical]})
