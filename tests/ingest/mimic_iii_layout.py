"""Made-up rows in the layout of MIMIC-III 1.4, as text."""

from __future__ import annotations

from datetime import datetime, timedelta

import numpy as np
import polars as pl

LAYOUT = {
    "patients": "row_id subject_id gender dob dod dod_hosp dod_ssn expire_flag",
    "admissions": "row_id subject_id hadm_id admittime dischtime deathtime admission_type admission_location "
    "discharge_location insurance language religion marital_status ethnicity edregtime edouttime diagnosis "
    "hospital_expire_flag has_chartevents_data",
    "icustays": "row_id subject_id hadm_id icustay_id dbsource first_careunit last_careunit first_wardid last_wardid "
    "intime outtime los",
    "transfers": "row_id subject_id hadm_id icustay_id dbsource eventtype prev_careunit curr_careunit prev_wardid "
    "curr_wardid intime outtime los",
    "services": "row_id subject_id hadm_id transfertime prev_service curr_service",
    "labevents": "row_id subject_id hadm_id itemid charttime value valuenum valueuom flag",
    "chartevents": "row_id subject_id hadm_id icustay_id itemid charttime storetime cgid value valuenum valueuom "
    "warning error resultstatus stopped",
    "microbiologyevents": "row_id subject_id hadm_id chartdate charttime spec_itemid spec_type_desc org_itemid "
    "org_name isolate_num ab_itemid ab_name dilution_text dilution_comparison dilution_value interpretation",
    "inputevents_mv": "row_id subject_id hadm_id icustay_id starttime endtime itemid amount amountuom rate rateuom "
    "storetime cgid orderid linkorderid ordercategoryname statusdescription",
    "inputevents_cv": "row_id subject_id hadm_id icustay_id charttime itemid amount amountuom rate rateuom storetime "
    "cgid orderid linkorderid stopped newbottle originalamount originalamountuom originalroute originalrate",
    "outputevents": "row_id subject_id hadm_id icustay_id charttime itemid value valueuom storetime cgid stopped "
    "newbottle iserror",
    "procedureevents_mv": "row_id subject_id hadm_id icustay_id starttime endtime itemid value valueuom location",
    "prescriptions": "row_id subject_id hadm_id icustay_id startdate enddate drug_type drug drug_name_poe "
    "drug_name_generic formulary_drug_cd gsn ndc prod_strength dose_val_rx dose_unit_rx route",
    "diagnoses_icd": "row_id subject_id hadm_id seq_num icd9_code",
    "procedures_icd": "row_id subject_id hadm_id seq_num icd9_code",
    "drgcodes": "row_id subject_id hadm_id drg_type drg_code description drg_severity drg_mortality",
    "cptevents": "row_id subject_id hadm_id costcenter chartdate cpt_cd cpt_number cpt_suffix ticket_id_seq "
    "sectionheader subsectionheader description",
    "d_labitems": "row_id itemid label fluid category loinc_code",
    "d_items": "row_id itemid label abbreviation dbsource linksto category unitname param_type conceptid",
    "d_icd_diagnoses": "row_id icd9_code short_title long_title",
    "d_icd_procedures": "row_id icd9_code short_title long_title",
}


def generate(seed: int, *, patients: int = 5) -> dict[str, pl.DataFrame]:
    """Table name (in lower case) -> rows as text."""
    rng = np.random.default_rng(seed)
    rows: dict[str, list[dict[str, object]]] = {name: [] for name in LAYOUT}

    def add(table: str, **row: object) -> None:
        rows[table].append({"row_id": len(rows[table]) + 1, **row})

    def some(*values: object) -> object:
        return values[int(rng.integers(len(values)))]

    def day(time: datetime) -> datetime:
        return time.replace(hour=0, minute=0, second=0)

    for number in range(patients):
        subject = 40_000 + 3 * number
        first = datetime(2150 + number, 3, 4, 7, 15)
        # Every third is older than 89.
        born = first.replace(year=first.year - (300 if number % 3 == 2 else 60))
        died = None
        at = first
        for stay in range(int(rng.integers(1, 4))):
            who = {"subject_id": subject, "hadm_id": 100_000 + 10 * number + stay}
            admitted = at
            left = admitted + timedelta(hours=int(rng.integers(5, 200)))
            at = left + timedelta(days=int(rng.integers(2, 300)))
            dies = stay and rng.random() < 0.3
            died = died or (left if dies else None)
            add(
                "admissions",
                **who,
                admittime=admitted,
                dischtime=left,
                deathtime=left if dies else "",
                admission_type=some("EMERGENCY", "ELECTIVE"),
                admission_location="EMERGENCY ROOM ADMIT",
                discharge_location="DEAD/EXPIRED" if dies else some("HOME", "SNF"),
                insurance="Medicare",
                language=some("ENGL", ""),
                religion=some("CATHOLIC", ""),
                marital_status="MARRIED",
                ethnicity="WHITE",
                edregtime=some(admitted - timedelta(hours=4), ""),
                edouttime=some(admitted + timedelta(hours=1), ""),
                diagnosis="SEPSIS",
            )
            add("icustays", **who, first_careunit="MICU", last_careunit="CCU", intime=admitted, outtime=left)
            add("transfers", **who, eventtype="admit", curr_careunit=some("MICU", ""), intime=admitted, outtime=left)
            add("services", **who, transfertime=admitted, curr_service="MED")
            for _ in range(int(rng.integers(2, 5))):
                during = admitted + timedelta(minutes=30 * int(rng.integers(0, 10)))
                value = some({"value": "5.1", "valuenum": "5.1"}, {"value": "NEG"}, {"value": "<0.1", "valuenum": 0.1})
                add("labevents", **{**who, "hadm_id": some(who["hadm_id"], "")}, itemid=50931, charttime=during,
                    valueuom=some("mg/dL", ""), **value)  # fmt: skip
                add("chartevents", **who, itemid=211, charttime=during, valueuom="bpm", error=some("0", "1"), **value)
                add("inputevents_mv", **who, starttime=during, endtime=during + timedelta(hours=1), itemid=225158,
                    amount=some("100", ""), amountuom="ml", rate=some("50", ""), rateuom="mL/hour")  # fmt: skip
                add("inputevents_cv", **who, charttime=during, itemid=30018, amount=some("7", ""), amountuom="ml",
                    rate=some("3", ""), rateuom="")  # fmt: skip
                add("outputevents", **who, charttime=during, itemid=40055, value=some("80", ""), valueuom="ml")
                add("procedureevents_mv", **who, starttime=during, endtime=left, itemid=225459)
                add("prescriptions", **who, startdate=day(during), enddate=day(left), drug=some("Heparin", "Insulin"))
            sampled = admitted + timedelta(hours=2)
            micro = {"chartdate": day(sampled), "charttime": some(sampled, ""), "spec_type_desc": "BLOOD CULTURE"}
            for drug in ("GENTAMICIN", "CEFEPIME"):
                add("microbiologyevents", **who, **micro, org_name="E. COLI", isolate_num=1, ab_name=drug,
                    interpretation=some("S", "R"))  # fmt: skip
            add("microbiologyevents", **who, **{**micro, "spec_type_desc": "URINE"})
            for number_, code in enumerate(("0389", "25000")):
                add("diagnoses_icd", **who, seq_num=number_ + 1, icd9_code=code)
            add("procedures_icd", **who, seq_num=1, icd9_code="966")
            add("drgcodes", **who, drg_type="HCFA", drg_code="416", description="SEPTICEMIA AGE >17")
            add("cptevents", **who, chartdate=some(day(admitted), ""), cpt_cd="99223", description=some("HOSPITAL", ""))
        dead = died or (at if number % 2 else "")
        add("patients", subject_id=subject, gender=some("M", "F"), dob=day(born), dod=day(dead) if dead else "")
    add("d_labitems", itemid=50931, label="Glucose", fluid="Blood", category="Chemistry")
    add("d_items", itemid=211, label="Heart Rate", linksto="chartevents")
    add("d_icd_diagnoses", icd9_code="0389", short_title="x", long_title="Unspecified septicemia")
    add("d_icd_procedures", icd9_code="966", short_title="x", long_title="Enteral infusion")
    return {
        name: pl.DataFrame(
            [{c: None if row.get(c, "") == "" else str(row[c]) for c in LAYOUT[name].split()} for row in found],
            schema=dict.fromkeys(LAYOUT[name].split(), pl.String),
        )
        for name, found in rows.items()
    }
