"""Hospitals: who comes there, and how the same facts are written down.

The second site has older people, more men, more diabetes and kidney disease and more admissions than the first. It
writes WHO-style ICD-10 without points, drugs by name, laboratory tests by local numbers, and many of them in SI units.
What it writes leads back, code by code and value by value, to what the first would have written, so its filter is
exact too.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field

import polars as pl

from ehrjax.core.errors import InputError
from ehrjax.ingest.synthetic.case_mix import CaseMix
from ehrjax.ingest.synthetic.drugs import RXNORM
from ehrjax.ingest.synthetic.laboratory import LABS
from ehrjax.ingest.synthetic.process import Process, build, drug_code
from ehrjax.ingest.synthetic.reasons import DETECTION, EMERGENCY, INPATIENT

# Test -> the second site's unit, and value there = value here * factor + offset.
SI_UNITS: dict[str, tuple[str, float, float]] = {
    "a1c": ("mmol/mol", 10.93, -23.5),
    "glucose": ("mmol/L", 0.0555, 0.0),
    "creatinine": ("umol/L", 88.42, 0.0),
    "hemoglobin": ("g/L", 10.0, 0.0),
    "albumin": ("g/L", 10.0, 0.0),
    "ldl": ("mmol/L", 0.02586, 0.0),
    "troponin": ("ng/L", 1000.0, 0.0),
    "bnp": ("pmol/L", 0.289, 0.0),
    "lactate": ("mg/dL", 9.008, 0.0),
}


@dataclass(frozen=True)
class Site:
    """A hospital.

    Attributes:
      name: `first` or `second`.
      mix: who comes there.
      codes: the first site's code -> this one's, where it is another.
      scales: the first site's code of a test -> (factor, offset) of its values here.
    """

    name: str
    mix: CaseMix = CaseMix()
    codes: Mapping[str, str] = field(default_factory=dict)
    scales: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def process(self) -> Process:
        """The process that its people follow."""
        return build(mix=self.mix)

    def written(self, events: pl.DataFrame) -> pl.DataFrame:
        """Events in the first site's codes and units, as this site writes them."""
        if not self.codes:
            return events
        factor, offset = self._scale(pl.col("code"))
        # Three places are less than a twentieth of every test's step, so the value still leads back.
        value = (pl.col("numeric_value").cast(pl.Float64) * factor + offset).round(3).cast(pl.Float32)
        return events.with_columns(value.alias("numeric_value"), pl.col("code").replace(dict(self.codes)))

    def read_back(self, events: pl.DataFrame) -> pl.DataFrame:
        """Events as this site writes them, in the first site's codes and units."""
        if not self.codes:
            return events
        events = events.with_columns(pl.col("code").replace({there: here for here, there in self.codes.items()}))
        factor, offset = self._scale(pl.col("code"))
        value = (pl.col("numeric_value").cast(pl.Float64) - offset) / factor
        return events.with_columns(value.cast(pl.Float32).alias("numeric_value"))

    def _scale(self, code: pl.Expr) -> tuple[pl.Expr, pl.Expr]:
        return tuple(
            code.replace_strict({name: scale[part] for name, scale in self.scales.items()}, default=float(1 - part))
            for part in (0, 1)
        )

    def described(self, table: Mapping[str, str]) -> dict[str, str]:
        """The descriptions of this site's codes, from those of the first site's."""
        units = {lab.code: (lab.unit, SI_UNITS[lab.name][0]) for lab in LABS if lab.code in self.scales}

        def text(code: str, description: str) -> str:
            here, there = units.get(code, ("", ""))
            return description.replace(f"[{here}]", f"[{there}]") if here else description

        return {self.codes.get(code, code): text(code, description) for code, description in table.items()}


@functools.cache
def site_named(name: str) -> Site:
    """The site of that name.

    Raises:
      InputError: there is none.
    """
    if name == "first":
        return Site("first")
    if name == "second":
        return _second()
    raise InputError(f"There is no site {name!r} of the synthetic hospital; choose first or second.")


def _second() -> Site:
    # Here and not above: the codes are those of the whole process.
    from ehrjax.ingest.synthetic import record

    codes, scales = {}, {}
    for number, lab in enumerate(LABS):
        unit, factor, offset = SI_UNITS.get(lab.name, (lab.unit, 1.0, 0.0))
        codes[lab.code] = f"LAB//{7000 + 13 * number}//{unit}"
        if lab.name in SI_UNITS:
            scales[lab.code] = (factor, offset)
    for name in RXNORM:
        codes[drug_code(name)] = f"DRUG//{name.upper()}"
    for code in record.codes():
        if code.startswith("ICD10CM//"):
            codes[code] = "ICD10//" + code.removeprefix("ICD10CM//").replace(".", "")
    mix = CaseMix(
        age_mean=58.0,
        age_deviation=17.0,
        men=0.56,
        newborn=0.02,
        advance=(("diabetes", 1.5), ("renal", 1.4)),
        settings=((INPATIENT, 1.2), (EMERGENCY, 1.15), (DETECTION, 0.85)),
    )
    return Site("second", mix, codes, scales)
