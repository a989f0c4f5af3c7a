"""Which token of one vocabulary stands for which of another: exactly, by a table, by normalised code, by hierarchy.

A token is read as what its code is (a code system, else a kind), the code, a unit and a bin. Only these are told apart;
whatever else stands in a token is a part of its code. Codes of two systems are never alike.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import polars as pl

from ehrjax.core.errors import InputError
from ehrjax.vocab.recipe import SPECIALS

WAYS = ("exact", "map", "normalised", "hierarchy")
# What is told of a match: 'normalised' finds 'unit' and 'bin' as well, where one of the two codes does not say it.
TOLD = ("exact", "map", "normalised", "unit", "bin", "hierarchy")
# An ICD code is cut down to its category: three characters, in ICD-9's external causes four (E850).
CATEGORY, CATEGORY_OF_CAUSES = 3, 4

_SEPARATORS = re.compile(r"//|[:|]")
_BIN = re.compile(r"//(Q\d+)$")
# Words that say a kind and no system.
_KINDS = {
    "diagnosis": ("diagnosis", "dx", "condition"),
    "procedure": ("procedure", "pr"),
    "drug": ("drug", "medication", "prescription", "rx"),
    "measurement": ("lab", "lx", "measurement", "vital"),
}
_KIND_OF = {word: kind for kind, words in _KINDS.items() for word in words}
# Words that say a system; what those of _VERSIONS say depends on the kind before them.
_SYSTEM_OF = {
    "icd9cm": "ICD9CM", "icd10cm": "ICD10CM", "icd9proc": "ICD9PROC", "icd9pcs": "ICD9PROC", "icd10pcs": "ICD10PCS",
    "cpt": "CPT", "cpt4": "CPT", "hcpcs": "HCPCS", "ndc": "NDC", "rxnorm": "RXNORM", "atc": "ATC", "loinc": "LOINC",
    "snomed": "SNOMED", "snomedct": "SNOMED", "snomedctus": "SNOMED",
}  # fmt: skip
_ICD, _VERSIONS = "icd", {"icd9": ("ICD9CM", "ICD9PROC"), "icd10": ("ICD10CM", "ICD10PCS")}
# How the codes of a system look, and which kinds they have.
_ATC = r"(A(0\d|1[0-6])|B0\d|C(0\d|10)|D(0\d|1[01])|[GHJLMNPRS]0\d|V([01]\d|20))([A-Z]([A-Z](\d\d)?)?)?"
_FORMS = {
    "ICD10CM": (("diagnosis",), r"[A-Z]\d[0-9A-Z]([.-]?[0-9A-Z]{1,4})?"),
    "ICD9CM": (("diagnosis",), r"\d{3}([.-]?\d{1,2})?|V\d\d([.-]?\d{1,2})?|E(0[0-2]\d|030|[89]\d\d)([.-]?\d)?"),
    "ICD9PROC": (("procedure",), r"\d\d([.-]?\d{1,2})?"),
    "ICD10PCS": (("procedure",), r"(?=.*\d)[0-9B-DF-HX][0-9A-HJ-NP-Z]{6}"),
    "HCPCS": (("procedure", "drug"), r"[A-EGHJ-MP-V]\d{4}"),
    "ATC": (("drug",), _ATC),
    "NDC": (("drug",), r"\d{4,5}-\d{3,4}-\d{1,2}"),
    "LOINC": (("measurement",), r"\d{3,5}-\d"),
}
_DOTTED = ("ICD10CM", "ICD9CM", "ICD9PROC", "LOINC", "NDC")

MATCH_SCHEMA = {"str": pl.String, "source": pl.String, "how": pl.String}


class Code(NamedTuple):
    """What a token says.

    Attributes:
      kind: a system in capitals, else a kind or the word before the code in small letters; "" where nothing says it.
      code: the code and all of its qualifiers.
      unit: of a measurement; "" where the token does not say it.
      bin: Q1, Q2, ... or "".
    """

    kind: str
    code: str
    unit: str = ""
    bin: str = ""


def normalised(token: str) -> Code:
    """A token's kind, and its code without case and prefixes; where dots and dashes mean nothing, without these.

    A system that is not said is taken from how the code looks, if it can be of one only. An NDC loses its package.

    >>> tuple(normalised("DIAGNOSIS//ICD//10//E1165")), tuple(normalised("e11.65"))
    (('ICD10CM', 'e1165', '', ''), ('ICD10CM', 'e1165', '', ''))
    >>> tuple(normalised("LAB//50912//mg/dL//Q3")), tuple(normalised("NDC:00071-0155-23"))
    (('measurement', '50912', 'mg/dl', 'Q3'), ('NDC', '000710155', '', ''))
    >>> tuple(normalised("TRANSFER//admit//Medicine"))
    ('transfer', 'admit//medicine', '', '')
    """
    found = _BIN.search(token)
    parts = [" ".join(part.split()) for part in _SEPARATORS.split(_BIN.sub("", token))]
    kind = system = ""
    icd = False
    while len(parts) > 1 and not system:
        word = re.sub(r"[\s_-]", "", parts[0]).lower()
        if word == _ICD and len(parts) > 2 and (whole := word + parts[1].lower()) in {**_VERSIONS, **_SYSTEM_OF}:
            word, parts = whole, parts[1:]
        if word in _VERSIONS:
            system = _VERSIONS[word][kind == "procedure"]
        elif word in _SYSTEM_OF:
            system = _SYSTEM_OF[word]
        elif word == _ICD:
            icd, kind = True, kind or "diagnosis"
        elif word in _KIND_OF and not kind:
            kind = _KIND_OF[word]
        else:
            break
        parts = parts[1:]
    if len(parts) > 1 and not (kind or system):
        # A word that is not known is a kind of its own: X//1 is no LAB//1.
        kind, parts = parts[0].lower(), parts[1:]
    else:
        system = system or _system_of(kind, parts[0].upper(), icd)
    unit = ""
    if len(parts) == 2 and (kind == "measurement" or system == "LOINC") and _is_unit(parts[1]):
        unit = parts.pop().lower().replace("unk", "")
    first = _plain(system, parts[0].lower())
    return Code(
        system or kind, "//".join([first, *(part.lower() for part in parts[1:])]), unit, found[1] if found else ""
    )


def _system_of(kind: str, code: str, icd: bool) -> str:
    """The only system in which a code of a kind can look so; "" for none or several."""
    # A number may be anyone's, and so may a bare M12 (a month) or Q10 (a bin): a dot or dash tells more.
    if not icd and re.fullmatch(r"\d*" if kind else r"[\d.]*|[^.-]*", code):
        return ""
    systems = [s for s in _FORMS if not icd or s.startswith("ICD")]
    fit = [s for s in systems if (not kind or kind in _FORMS[s][0]) and re.fullmatch(_FORMS[s][1], code)]
    return fit[0] if len(fit) == 1 else ""


def _plain(system: str, code: str) -> str:
    if system not in _DOTTED:
        return code
    if system == "NDC" and len(groups := code.split("-")) == 3:
        # Labeler and product have five and four digits, whichever of them is written with one less.
        code = f"{groups[0]:>05}{groups[1]:>04}{groups[2]:>02}"
    code = re.sub(r"[.\-\s]", "", code)
    return code[:9] if system == "NDC" and len(code) == 11 else code


@lru_cache(maxsize=10_000)
def _is_unit(text: str) -> bool:
    """Whether text behind a measurement's code is its unit: pint knows it, or it is UNK (no unit was recorded)."""
    from ehrjax.vocab.steps.merge_units import factor_between

    if text.lower() == "unk":
        return True
    return bool(re.search(r"[^\W\d_]|%", text)) and factor_between(text, text) is not None


def ancestors(code: Code) -> list[Code]:
    """The ancestors of a code of ICD-10-CM or ICD-9-CM, the nearest first; other codes have none.

    >>> [up.code for up in ancestors(normalised("E11.65"))]
    ['e116', 'e11']
    """
    if code.kind not in ("ICD10CM", "ICD9CM") or not re.fullmatch(_FORMS[code.kind][1], code.code.upper()):
        return []
    shortest = CATEGORY_OF_CAUSES if code.kind == "ICD9CM" and code.code.startswith("e") else CATEGORY
    return [code._replace(code=code.code[:length]) for length in range(len(code.code) - 1, shortest - 1, -1)]


def match(
    wanted: Sequence[str],
    there: Sequence[str],
    *,
    mapping: Mapping[str, str] | None = None,
    ways: Sequence[str] = WAYS,
) -> pl.DataFrame:
    """For each wanted token the one there that stands for it, found by the first of the ways that finds one.

    Args:
      wanted: tokens, each once.
      there: tokens to choose from; of several that are alike, the first is taken.
      mapping: a user's table, wanted -> there.
      ways: some of WAYS, in order. 'normalised' takes the same code, unit and bin; else ('unit') the same code and bin
        where one of the two does not say its unit; else ('bin') for a code with a bin the code without one. 'hierarchy'
        takes the nearest ancestor in ICD-10-CM or ICD-9-CM that is there.

    Returns:
      MATCH_SCHEMA, a row a wanted token in order; how is one of TOLD; source and how are null where nothing was found.
      Specials are matched exactly or not at all.

    Raises:
      InputError: an unknown way, or a mapping to a token that is not there.
    """
    if unknown := [way for way in ways if way not in WAYS]:
        raise InputError(f"Tokens are not matched by {unknown[0]!r}; there are {', '.join(WAYS)}.")
    known, asked = set(there), set(wanted)
    for token, target in (mapping or {}).items():
        if token in asked and target not in known:
            raise InputError(f"The mapping sends {token!r} to {target!r}, which is not in the other vocabulary.")
    by_code: dict[tuple[str, str], dict[Code, str]] = {}
    for token in there:
        code = normalised(token)
        if token not in SPECIALS and code.code:
            by_code.setdefault(code[:2], {}).setdefault(code, token)

    def one(token: str) -> tuple[str | None, str | None]:
        for way in ways:
            if way == "exact" and token in known:
                return token, way
            if token in SPECIALS:
                continue
            if way == "map" and mapping and token in mapping:
                return mapping[token], way
            if way == "normalised":
                code = normalised(token)
                source, how = _nearest(code, by_code.get(code[:2], {}))
                if source is not None:
                    return source, how
            if way == "hierarchy":
                alike = (by_code.get(up[:2], {}).get(up) for up in ancestors(normalised(token)))
                if found := next((source for source in alike if source is not None), None):
                    return found, way
        return None, None

    return pl.DataFrame([(token, *one(token)) for token in wanted], schema=MATCH_SCHEMA, orient="row")


def _nearest(code: Code, alike: Mapping[Code, str]) -> tuple[str | None, str | None]:
    """Of tokens with the same kind and code the one that is nearest in unit and bin, and how it was found."""
    if code in alike:
        return alike[code], "normalised"
    for how, bin_ in (("unit", code.bin), ("bin", "")):
        near = [c for c in alike if c.bin == bin_ and (c.unit == code.unit or not (c.unit and code.unit))]
        same = [c for c in near if c.unit == code.unit] or near
        # A code without a unit is none of several codes with different units.
        if len({c.unit for c in same}) == 1:
            return alike[same[0]], how
    return None, None


def read_mapping(path: str | Path) -> dict[str, str]:
    """A user's table: a CSV file with the columns `code` and `to`.

    Raises:
      InputError: the file is missing, lacks a column, or names a code twice.
    """
    try:
        frame = pl.read_csv(path, infer_schema=False).select("code", "to").drop_nulls()
    except FileNotFoundError as error:
        raise InputError(f"The mapping {path} does not exist.") from error
    except pl.exceptions.PolarsError as error:
        raise InputError(f"The mapping {path} needs the columns code and to: {str(error).splitlines()[0]}.") from error
    if (twice := frame["code"].is_duplicated()).any():
        raise InputError(f"The mapping {path} names {frame['code'].filter(twice)[0]!r} more than once.")
    return dict(frame.iter_rows())


def coverage(found: pl.DataFrame, counts: Sequence[int]) -> dict[str, dict[str, float]]:
    """How (see TOLD) -> share of tokens and of occurrences that it matched; 'all' adds them up. Specials do not count.

    Args:
      found: from `match`.
      counts: how often each wanted token occurs.
    """
    told = found.with_columns(pl.Series("count", counts, pl.Int64)).filter(~pl.col("str").is_in(list(SPECIALS)))
    tokens, occurrences = max(len(told), 1), max(int(told["count"].sum()), 1)
    result = {}
    for way in (*TOLD, "all"):
        own = told.filter(pl.col("how").is_not_null() if way == "all" else pl.col("how") == way)
        result[way] = {"tokens": len(own) / tokens, "occurrences": int(own["count"].sum()) / occurrences}
    return result
