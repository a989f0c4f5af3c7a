"""A readable sentence for every code that the MIMIC readers write, from the d_ tables where there is one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from ehrjax.core.codes import SEPARATOR
from ehrjax.ingest.raw_csv import Kind
from ehrjax.ingest.raw_files import find_table, read_batches
from ehrjax.ingest.raw_tables import UNKNOWN

Dictionary = tuple[str, str, tuple[str, ...], tuple[str, ...]]
HOSP, ICU = "hosp", "icu"
# (folder, table, key columns, description columns) of MIMIC-IV
DICTIONARIES: tuple[Dictionary, ...] = (
    (HOSP, "d_labitems", ("itemid",), ("label", "fluid")),
    (ICU, "d_items", ("itemid",), ("label",)),
    (HOSP, "d_icd_diagnoses", ("icd_version", "icd_code"), ("long_title",)),
    (HOSP, "d_icd_procedures", ("icd_version", "icd_code"), ("long_title",)),
    (HOSP, "d_hcpcs", ("code",), ("short_description", "long_description")),
)


@dataclass
class Titles:
    """What the d_ tables call the codes: table -> key (parts joined by `//`) -> descriptions.

    Attributes:
      by_table: the titles.
      own: code -> description found in the event tables themselves (the first one seen).
      absent: the d_ tables that are not there; their codes get descriptions without titles.
    """

    by_table: dict[str, dict[str, tuple[str | None, ...]]] = field(default_factory=dict)
    own: dict[str, str] = field(default_factory=dict)
    absent: list[str] = field(default_factory=list)

    def of(self, table: str, key: str) -> tuple[str | None, ...] | None:
        """The descriptions of a key, or None."""
        return self.by_table.get(table, {}).get(key)


def read_titles(folder: Path, dictionaries: Iterable[Dictionary] = DICTIONARIES) -> Titles:
    """Reads the d_ tables that are in `folder`.

    Raises:
      InputError: one of them is damaged or lacks a column.
    """
    titles = Titles()
    for part, table, keys, texts in dictionaries:
        paths = find_table(folder / part, table)
        if not paths:
            titles.absent.append(f"{part}/{table}".lstrip("/"))
            continue
        found: dict[str, tuple[str | None, ...]] = {}
        for batch in read_batches(paths, dict.fromkeys((*keys, *texts), Kind.TEXT)):
            key = batch.select(pl.concat_str(keys, separator=SEPARATOR)).to_series()
            found.update(zip(key, batch.select(texts).iter_rows()))
        titles.by_table[table] = found
    return titles


def describe(codes: Iterable[str], titles: Titles) -> dict[str, str]:
    """A description for every code."""
    descriptions = {}
    for code in codes:
        family, *rest = code.split(SEPARATOR, 1)
        descriptions[code] = _FAMILIES[family](rest[0] if rest else "", titles, code)
    return descriptions


def _plain(text: str) -> Callable[[str, Titles, str], str]:
    """`text` with {0}, {1}, ... replaced by the parts of the code; UNK reads as 'unknown'."""

    def sentence(rest: str, titles: Titles, code: str) -> str:
        return text.format(*("unknown" if part == UNKNOWN else part for part in rest.split(SEPARATOR)))

    return sentence


def _icd(kind: str, table: str, systems: Mapping[str, str]) -> Callable[[str, Titles, str], str]:
    def sentence(rest: str, titles: Titles, code: str) -> str:
        system, number = rest.split(SEPARATOR)
        title = titles.of(table, f"{system.strip('ICDMPS')}{SEPARATOR}{number}")
        return title[0] if title and title[0] else f"{kind} {number} of {systems.get(system, system)}"

    return sentence


def _item(what: str) -> Callable[[str, Titles, str], str]:
    """An item of icu/d_items, with its unit where the code ends in one."""

    def sentence(rest: str, titles: Titles, code: str) -> str:
        item, *unit = rest.split(SEPARATOR)
        title = titles.of("d_items", item)
        return f"{what}: {title[0] if title and title[0] else f'item {item}'}{_in(unit)}"

    return sentence


def _lab(rest: str, titles: Titles, code: str) -> str:
    item, *unit = rest.split(SEPARATOR)
    label, fluid = titles.of("d_labitems", item) or (None, None)
    return f"Laboratory test: {label or f'item {item}'}{f' in {fluid}' if fluid else ''}{_in(unit)}"


def _in(unit: list[str]) -> str:
    return f" ({unit[0]})" if unit and unit[0] != UNKNOWN else ""


def _microbiology(rest: str, titles: Titles, code: str) -> str:
    kind, *parts = ("unknown" if part == UNKNOWN else part for part in rest.split(SEPARATOR))
    return _MICROBIOLOGY[kind].format(*parts)


_MICROBIOLOGY = {
    "SPECIMEN": "Microbiology specimen taken: {0}, for {1}",
    "RESULT": "Microbiology result reported with no organism named: {0}",
    "ORGANISM": "Microbiology organism found: {0}",
    "SUSCEPTIBILITY": "Microbiology susceptibility to {0}: {1}",
}


def _omr(rest: str, titles: Titles, code: str) -> str:
    name, *side = rest.split(SEPARATOR)
    return f"Measurement in the online medical record: {name}{f', {side[0]}' if side else ''}"


def _drg(rest: str, titles: Titles, code: str) -> str:
    group, number = rest.split(SEPARATOR)
    return f"Diagnosis-related group ({group}) {number}{_titled(titles.own.get(code))}"


def _hcpcs(rest: str, titles: Titles, code: str) -> str:
    title = titles.of("d_hcpcs", rest) or ()
    return f"Billed service (HCPCS) {rest}{_titled(next((t for t in title if t), titles.own.get(code)))}"


def _cpt(rest: str, titles: Titles, code: str) -> str:
    return f"Billed service (CPT) {rest}{_titled(titles.own.get(code))}"


def _titled(title: str | None) -> str:
    return f": {title}" if title else ""


_FAMILIES: dict[str, Callable[[str, Titles, str], str]] = {
    "GENDER": _plain("Gender: {0}"),
    "MEDS_BIRTH": _plain("Birth"),
    "MEDS_DEATH": _plain("Death"),
    "ED_REGISTRATION": _plain("Came to the hospital through its emergency department"),
    "ED_OUT": _plain("Left the emergency department for a hospital ward"),
    "HOSPITAL_ADMISSION": _plain("Admitted to hospital: {0}, from {1}"),
    "HOSPITAL_DISCHARGE": _plain("Discharged from hospital to {0}"),
    "INSURANCE": _plain("Insurance: {0}"),
    "LANGUAGE": _plain("Language: {0}"),
    "MARITAL_STATUS": _plain("Marital status: {0}"),
    "RACE": _plain("Race or ethnicity: {0}"),
    "RELIGION": _plain("Religion: {0}"),
    "TRANSFER": _plain("Transfer within the hospital ({0}), care unit: {1}"),
    "ICU_ADMISSION": _plain("Admitted to intensive care: {0}"),
    "ICU_DISCHARGE": _plain("Discharged from intensive care: {0}"),
    "SERVICE": _plain("Under the care of the service {0}"),
    "OMR": _omr,
    "LAB": _lab,
    "MICROBIOLOGY": _microbiology,
    "CHART": _item("Charted in intensive care"),
    "INFUSION_START": _item("Infusion started, with its rate"),
    "INFUSION_END": _item("Infusion ended, with the amount given"),
    "OUTPUT": _item("Output"),
    "ICU_PROCEDURE": _item("Procedure in intensive care started"),
    "MEDICATION": _plain("Prescribed: {0}"),
    "ADMINISTRATION": _plain("Medication record of {0}: {1}"),
    "HCPCS": _hcpcs,
    "CPT": _cpt,
    "DIAGNOSIS": _icd("Diagnosis", "d_icd_diagnoses", {"ICD9CM": "ICD-9-CM", "ICD10CM": "ICD-10-CM"}),
    "PROCEDURE": _icd("Procedure", "d_icd_procedures", {"ICD9PCS": "ICD-9-CM volume 3", "ICD10PCS": "ICD-10-PCS"}),
    "DRG": _drg,
}
