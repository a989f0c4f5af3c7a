"""The shorter codes that a code begins with."""

from __future__ import annotations

import pytest

from ehrjax.core.codes import prefix, prefixes


@pytest.mark.parametrize(
    ("code", "shorter"),
    [
        ("ICD10CM//E11.9", ["ICD10CM//E11", "ICD10CM"]),
        ("LAB//50912//mg/dL", ["LAB//50912", "LAB"]),
        ("LAB//1.5//g", ["LAB//1.5", "LAB//1", "LAB"]),
        ("MEDS_DEATH", []),
        ("E11.9", []),  # no family, so no vocabulary whose categories end at a dot
        ("X//.5", ["X"]),
        ("X//", ["X"]),
        ("", []),
    ],
)
def test_shorter_codes(code, shorter):
    assert prefixes(code) == shorter
    assert prefix(code) == (shorter[0] if shorter else None)
