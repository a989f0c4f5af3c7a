"""Which token of one vocabulary stands for which of another: exactly, by a table, by normalised code, by hierarchy."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl

from ehrjax.core.errors import InputError
from ehrjax.vocab.recipe import SPECIALS

WAYS = ("exact", "map", "normalised", "hierarchy")
# Characters of an NDC that say labeler and product; the last two say the package.
NDC_LENGTH, NDC_PRODUCT = 11, 9
# A code of a hierarchy is cut to this many characters at least (the ICD category).
SHORTEST = 3
_SEPARATORS = re.compile(r"//|[:|]")
_BIN = re.compile(r"//Q\d+$")
_ICD = re.compile(r"[a-z]\d[0-9a-z]|\d{3}|e\d{3}|v\d{2}")
# What the words before a code say it is.
_KINDS = {
    "diagnosis": ("diagnosis", "dx", "condition", "icd", "icd9", "icd9cm", "icd10", "icd10cm", "snomed", "snomedct_us"),
    "procedure": ("procedure", "pr", "icd9proc", "icd9pcs", "icd10pcs", "cpt", "cpt4", "hcpcs"),
    "drug": ("drug", "medication", "prescription", "rx", "ndc", "rxnorm", "atc"),
    "measurement": ("lab", "lx", "loinc", "measurement", "vital"),
}
_KIND_OF = {word: kind for kind, words in _KINDS.items() for word in words}

MATCH_SCHEMA = {"str": pl.String, "source": pl.String, "how": pl.String}


def normalised(token: str) -> tuple[str, str]:
    """What a token's code is ("" where no word says it), and the code without case, dots, dashes and prefixes.

    Units and bins behind the code are left out; an 11-digit NDC is left without its package.

    >>> normalised("DIAGNOSIS//ICD10CM//E11.65"), normalised("e11.65")
    (('diagnosis', 'e1165'), ('', 'e1165'))
    >>> normalised("LAB//50912//mg/dL//Q3"), normalised("NDC:00071-0155-23")
    (('measurement', '50912'), ('drug', '000710155'))
    """
    parts = [part.strip() for part in _SEPARATORS.split(_BIN.sub("", token))]
    kind = ""
    while len(parts) > 1 and (word := re.sub(r"[\s-]", "", parts[0]).lower()) in _KIND_OF:
        kind = kind or _KIND_OF[word]
        parts = parts[1:]
    if len(parts) > 1 and not kind:
        # A word that is not known is a kind of its own: X//1 is no LAB//1.
        kind, parts = parts[0].lower(), parts[1:]
    code = re.sub(r"[.\-\s]", "", parts[0]).lower()
    if len(code) == NDC_LENGTH and code.isdigit():
        code = code[:NDC_PRODUCT]
    return kind, code


def ancestors(code: str) -> list[str]:
    """A normalised ICD code's ancestors, the nearest first; other codes have none.

    >>> ancestors("e1165")
    ['e116', 'e11']
    """
    if not _ICD.match(code):
        return []
    return [code[:length] for length in range(len(code) - 1, SHORTEST - 1, -1)]


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
      ways: some of WAYS, in order. 'hierarchy' takes the nearest ancestor of a normalised ICD code that is there.

    Returns:
      MATCH_SCHEMA, a row a wanted token in order; source and how are null where nothing was found. Specials are matched
      exactly or not at all.

    Raises:
      InputError: an unknown way, or a mapping to a token that is not there.
    """
    if unknown := [way for way in ways if way not in WAYS]:
        raise InputError(f"Tokens are not matched by {unknown[0]!r}; there are {', '.join(WAYS)}.")
    known, asked = set(there), set(wanted)
    for token, target in (mapping or {}).items():
        if token in asked and target not in known:
            raise InputError(f"The mapping sends {token!r} to {target!r}, which is not in the other vocabulary.")
    # By kind and code, and by code alone: a code without a kind may be of any.
    by_code: dict[tuple[str | None, str], str] = {}
    for token in there:
        kind, code = normalised(token)
        if token not in SPECIALS and code:
            by_code.setdefault((kind, code), token)
            by_code.setdefault((None, code), token)

    def alike(kind: str, code: str) -> str | None:
        if not kind:
            return by_code.get((None, code))
        return by_code.get((kind, code)) or by_code.get(("", code))

    def one(token: str) -> tuple[str | None, str | None]:
        for way in ways:
            if way == "exact" and token in known:
                return token, way
            if token in SPECIALS:
                continue
            if way == "map" and mapping and token in mapping:
                return mapping[token], way
            kind, code = normalised(token)
            if way == "normalised" and (found := alike(kind, code)):
                return found, way
            if way == "hierarchy" and kind in ("", "diagnosis"):
                found = next((near for up in ancestors(code) if (near := alike(kind, up))), None)
                if found:
                    return found, way
        return None, None

    return pl.DataFrame([(token, *one(token)) for token in wanted], schema=MATCH_SCHEMA, orient="row")


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
    """way -> share of tokens and of occurrences that it matched; 'all' adds them up. Specials do not count.

    Args:
      found: from `match`.
      counts: how often each wanted token occurs.
    """
    told = found.with_columns(pl.Series("count", counts, pl.Int64)).filter(~pl.col("str").is_in(list(SPECIALS)))
    tokens, occurrences = max(len(told), 1), max(int(told["count"].sum()), 1)
    result = {}
    for way in (*WAYS, "all"):
        own = told.filter(pl.col("how").is_not_null() if way == "all" else pl.col("how") == way)
        result[way] = {"tokens": len(own) / tokens, "occurrences": int(own["count"].sum()) / occurrences}
    return result
