"""A hash of a MEDS dataset's content: the same for the same events, splits and descriptions."""

from __future__ import annotations

import hashlib

from ehrjax.core import files
from ehrjax.ingest.meds import MedsDataset


def fingerprint(dataset: MedsDataset) -> str:
    """16 hex digits over the event files (in name order), the splits and the codes' descriptions."""
    digest = hashlib.sha256()
    metadata = (dataset.folder / "metadata" / name for name in ("codes.parquet", "subject_splits.parquet"))
    for path in [*dataset.shards, *metadata]:
        digest.update(str(path.relative_to(dataset.folder)).encode())
        digest.update(files.sha256_file(path).encode())
    return digest.hexdigest()[:16]
