"""Made-up rows in the layout of eICU 2.0, as text."""

# ruff: noqa: E501

from __future__ import annotations

import numpy as np
import polars as pl

LAYOUT = {
    "patient": "patientunitstayid patienthealthsystemstayid gender age ethnicity hospitalid wardid "
    "apacheadmissiondx admissionheight hospitaladmittime24 hospitaladmitoffset hospitaladmitsource "
    "hospitaldischargeyear hospitaldischargetime24 hospitaldischargeoffset hospitaldischargelocation "
    "hospitaldischargestatus unittype unitadmittime24 unitadmitsource unitvisitnumber unitstaytype admissionweight "
    "dischargeweight unitdischargetime24 unitdischargeoffset unitdischargelocation unitdischargestatus uniquepid",
    "admissionDx": "admissiondxid patientunitstayid admitdxenteredoffset admitdxpath admitdxname admitdxtext",
    "pastHistory": "pasthistoryid patientunitstayid pasthistoryoffset pasthistoryenteredoffset pasthistorynotetype "
    "pasthistorypath pasthistoryvalue pasthistoryvaluetext",
    "allergy": "allergyid patientunitstayid allergyoffset allergyenteredoffset allergynotetype specialtytype usertype "
    "rxincluded writtenineicu drugname allergytype allergyname drughiclseqno",
    "lab": "labid patientunitstayid labresultoffset labtypeid labname labresult labresulttext labmeasurenamesystem "
    "labmeasurenameinterface labresultrevisedoffset",
    "microLab": "microlabid patientunitstayid culturetakenoffset culturesite organism antibiotic sensitivitylevel",
    "vitalPeriodic": "vitalperiodicid patientunitstayid observationoffset temperature sao2 heartrate respiration cvp "
    "etco2 systemicsystolic systemicdiastolic systemicmean pasystolic padiastolic pamean st1 st2 st3 icp",
    "vitalAperiodic": "vitalaperiodicid patientunitstayid observationoffset noninvasivesystolic noninvasivediastolic "
    "noninvasivemean paop cardiacoutput cardiacinput svr svri pvr pvri",
    "nurseCharting": "nursingchartid patientunitstayid nursingchartoffset nursingchartentryoffset "
    "nursingchartcelltypecat nursingchartcelltypevallabel nursingchartcelltypevalname nursingchartvalue",
    "respiratoryCharting": "respchartid patientunitstayid respchartoffset respchartentryoffset respcharttypecat "
    "respchartvaluelabel respchartvalue",
    "intakeOutput": "intakeoutputid patientunitstayid intakeoutputoffset intaketotal outputtotal dialysistotal nettotal "
    "intakeoutputentryoffset cellpath celllabel cellvaluenumeric cellvaluetext",
    "infusiondrug": "infusiondrugid patientunitstayid infusionoffset drugname drugrate infusionrate drugamount "
    "volumeoffluid patientweight",
    "medication": "medicationid patientunitstayid drugorderoffset drugstartoffset drugivadmixture drugordercancelled "
    "drugname drughiclseqno dosage routeadmin frequency loadingdose prn drugstopoffset gtc",
    "treatment": "treatmentid patientunitstayid treatmentoffset treatmentstring activeupondischarge",
    "diagnosis": "diagnosisid patientunitstayid activeupondischarge diagnosisoffset diagnosisstring icd9code "
    "diagnosispriority",
}


def generate(seed: int, *, people: int = 4) -> dict[str, pl.DataFrame]:
    """Table name -> rows as text."""
    rng = np.random.default_rng(seed)
    rows: dict[str, list[dict[str, object]]] = {name: [] for name in LAYOUT}

    def some(*values: object) -> object:
        return values[int(rng.integers(len(values)))]

    unit = 141_000
    for person in range(people):
        age = int(rng.integers(30, 88))
        for stay in range(int(rng.integers(1, 4))):
            hospital = 130_000 + 100 * person + int(rng.integers(90)) // 3 * 3 + stay
            begin, length = -int(rng.integers(0, 600)), int(rng.integers(1000, 5000))
            dies = stay == 2 and rng.random() < 0.5
            for number in range(int(rng.integers(1, 3))):
                unit += 1
                out = int(rng.integers(300, 900))
                rows["patient"].append(
                    {
                        "patientunitstayid": unit,
                        "patienthealthsystemstayid": hospital,
                        "uniquepid": f"002-{person:05d}",
                        "gender": "Female",
                        "age": "> 89" if person == 3 else age + stay,
                        "ethnicity": some("Caucasian", ""),
                        "hospitaladmitoffset": begin - 900 * number,
                        "hospitaladmitsource": some("Emergency Department", ""),
                        "hospitaldischargeyear": 2014 + (stay > 0),
                        "hospitaldischargeoffset": length - 900 * number,
                        "hospitaldischargelocation": "Death" if dies else some("Home", ""),
                        "hospitaldischargestatus": "Expired" if dies else "Alive",
                        "unittype": some("MICU", "CCU-CTICU"),
                        "unitadmitsource": some("Floor", ""),
                        "unitdischargeoffset": out,
                        "unitdischargelocation": some("Floor", ""),
                        "unitdischargestatus": "Alive",
                    }
                )
                for _ in range(int(rng.integers(1, 4))):
                    at = int(rng.integers(-100, 800))
                    own = {"patientunitstayid": unit}
                    rows["admissionDx"].append(
                        {**own, "admitdxenteredoffset": at, "admitdxpath": "admission|All|Sepsis"}
                    )
                    rows["pastHistory"].append(
                        {
                            **own,
                            "pasthistoryoffset": -5000,
                            "pasthistoryenteredoffset": at,
                            "pasthistorypath": "notes/CHF",
                        }
                    )
                    rows["allergy"].append({**own, "allergyenteredoffset": at, "allergyname": "penicillin"})
                    rows["lab"].append(
                        {**own, "labresultoffset": at, "labname": "potassium", "labmeasurenamesystem": some("mmol/L", ""),
                         **some({"labresult": 4.25, "labresulttext": "4.25"}, {"labresult": 0.01, "labresulttext": "<0.01"},
                                {"labresulttext": "hemolyzed"}, {"labresult": 3.5})}
                    )  # fmt: skip
                    rows["microLab"].append(
                        {**own, "culturetakenoffset": at, "culturesite": "Blood", "organism": some("E. coli", ""),
                         "antibiotic": some("ceftriaxone", ""), "sensitivitylevel": some("Sensitive", "")}
                    )  # fmt: skip
                    rows["vitalPeriodic"].append(
                        {
                            **own,
                            "observationoffset": at,
                            "heartrate": some(88, ""),
                            "sao2": some(97, ""),
                            "temperature": "",
                        }
                    )
                    rows["vitalAperiodic"].append({**own, "observationoffset": at, "noninvasivemean": some(77, "")})
                    rows["nurseCharting"].append(
                        {**own, "nursingchartoffset": at - 60, "nursingchartentryoffset": at,
                         "nursingchartcelltypevallabel": "Pain Score", "nursingchartcelltypevalname": "Value",
                         "nursingchartvalue": some("3", "unable")}
                    )  # fmt: skip
                    rows["respiratoryCharting"].append(
                        {
                            **own,
                            "respchartentryoffset": at,
                            "respchartvaluelabel": "FiO2",
                            "respchartvalue": some("40", "n/a"),
                        }
                    )
                    rows["intakeOutput"].append(
                        {**own, "intakeoutputentryoffset": at, "celllabel": "Urine", "cellvaluenumeric": some(80, "")}
                    )
                    rows["infusiondrug"].append(
                        {**own, "infusionoffset": at, "drugname": "Propofol", "drugrate": some("10", "OFF\\.br\\", "")}
                    )
                    rows["medication"].append(
                        {**own, "drugstartoffset": at, **some({"drugname": "ASPIRIN"}, {"drughiclseqno": 1820})}
                    )
                    rows["treatment"].append({**own, "treatmentoffset": at, "treatmentstring": "pulmonary|ventilation"})
                    rows["diagnosis"].append(
                        {**own, "diagnosisoffset": at, "diagnosisstring": "cardiovascular|shock",
                         "icd9code": some("785.51, R57.0", "428.0", "")}
                    )  # fmt: skip
    return {
        name: pl.DataFrame(
            [{c: None if row.get(c, "") == "" else str(row[c]) for c in LAYOUT[name].split()} for row in found],
            schema=dict.fromkeys(LAYOUT[name].split(), pl.String),
        )
        for name, found in rows.items()
    }
