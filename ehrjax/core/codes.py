"""How codes are put together: parts with `//` between them, the broader in front (`ICD10CM//E11.9`)."""

from __future__ import annotations

SEPARATOR = "//"


def prefix(code: str) -> str | None:
    """The next shorter code that a code begins with: up to the dot of its last part, else up to its last `//`.

    >>> prefix("ICD10CM//E11.9"), prefix("ICD10CM//E11"), prefix("ICD10CM")
    ('ICD10CM//E11', 'ICD10CM', None)
    """
    head, separator, last = code.rpartition(SEPARATOR)
    stem = last.partition(".")[0]
    if separator and stem and stem != last:
        return f"{head}{separator}{stem}"
    return head if separator and head else None


def prefixes(code: str) -> list[str]:
    """All shorter codes that a code begins with, the longest first.

    >>> prefixes("ICD10CM//E11.9")
    ['ICD10CM//E11', 'ICD10CM']
    """
    found: list[str] = []
    shorter = prefix(code)
    while shorter is not None:
        found.append(shorter)
        shorter = prefix(shorter)
    return found
