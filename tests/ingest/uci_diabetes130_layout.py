"""Made-up rows in the published layout of diabetic_data.csv."""

from __future__ import annotations

import numpy as np
import polars as pl

COLUMNS = (
    "encounter_id,patient_nbr,race,gender,age,weight,admission_type_id,discharge_disposition_id,admission_source_id,"
    "time_in_hospital,payer_code,medical_specialty,num_lab_procedures,num_procedures,num_medications,"
    "number_outpatient,number_emergency,number_inpatient,diag_1,diag_2,diag_3,number_diagnoses,max_glu_serum,"
    "A1Cresult,metformin,repaglinide,nateglinide,chlorpropamide,glimepiride,acetohexamide,glipizide,glyburide,"
    "tolbutamide,pioglitazone,rosiglitazone,acarbose,miglitol,troglitazone,tolazamide,examide,citoglipton,insulin,"
    "glyburide-metformin,glipizide-metformin,glimepiride-pioglitazone,metformin-rosiglitazone,"
    "metformin-pioglitazone,change,diabetesMed,readmitted"
).split(",")
DRUGS = COLUMNS[COLUMNS.index("metformin") : COLUMNS.index("change")]
NUMBERS = (
    "num_lab_procedures num_procedures num_medications number_outpatient number_emergency number_inpatient "
    "number_diagnoses"
).split()
MAPPING = """admission_type_id,description
1,Emergency
6,NULL
,
discharge_disposition_id,description
1,Discharged to home
11,Expired
22,Discharged/transferred to another rehab fac including rehab units of a hospital .
,
admission_source_id,description
7, Emergency Room
"""


def generate(seed: int, *, patients: int = 12, stays: int = 30) -> pl.DataFrame:
    """Rows as text, in no particular order of the patients; encounter ids grow."""
    rng = np.random.default_rng(seed)
    choices = {
        "race": ["Caucasian", "?", "Asian"],
        "gender": ["Male", "Female"],
        "age": ["[70-80)", "[0-10)"],
        "weight": ["?", "[75-100)"],
        "admission_type_id": ["1", "6"],
        "discharge_disposition_id": ["1", "6", "11", "13", "22"],
        "admission_source_id": ["7", "1"],
        "payer_code": ["?", "MC"],
        "medical_specialty": ["?", "Cardiology", "Family/GeneralPractice"],
        "diag_1": ["250.83", "8", "V57", "E909", "428"],
        "diag_2": ["?", "276", "38"],
        "diag_3": ["?", "401"],
        "max_glu_serum": ["None", ">200", "Norm"],
        "A1Cresult": ["None", ">8", ">7"],
        "change": ["No", "Ch"],
        "diabetesMed": ["No", "Yes"],
        "readmitted": ["NO", "<30", ">30"],
        **dict.fromkeys(DRUGS, ["No", "No", "Steady", "Up", "Down"]),
    }
    rows = []
    for number in range(stays):
        row = {name: str(rng.choice(values)) for name, values in choices.items()}
        row["encounter_id"] = str(1000 + 7 * number)
        row["patient_nbr"] = str(50 + int(rng.integers(patients)))
        row["time_in_hospital"] = str(rng.integers(1, 15))
        row |= {name: str(rng.integers(0, 60)) for name in NUMBERS}
        rows.append(row)
    frame = pl.DataFrame(rows).select(COLUMNS)
    return frame.sample(fraction=1, shuffle=True, seed=seed)
