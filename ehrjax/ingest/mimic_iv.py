"""The MIMIC-IV reader: a folder with hosp/ and icu/ tables (2.x or 3.x, .csv or .csv.gz) becomes a MEDS
dataset.

What each table means and when its rows became known is declared in `mimic_iv_tables`. Two passes: every
table is read once, block by block, and its events are spilled to buckets of whole subjects; then each bucket
is sorted and written as a shard. Only patients, admissions and the d_ tables are held in memory.

The property this reader keeps: deleting all that became known after a time t leaves all events up to t as
they were, in the same order.
"""

from __future__ import annotations

from pathlib import Path

from ehrjax.core import files
from ehrjax.ingest import mimic_codes as codes
from ehrjax.ingest import mimic_iv_tables as mimic
from ehrjax.ingest import raw_files, roles
from ehrjax.ingest.conversion import ByteProgress, Conversion, Progress, text_bytes
from ehrjax.ingest.mimic_common import spill


def read(input: str | Path, output: str | Path, *, progress: Progress | None = None) -> dict[str, object]:
    """Converts a MIMIC-IV folder to MEDS.

    Args:
      input: the folder that holds hosp/ and icu/.
      output: the MEDS folder to write; it must not exist or be empty.
      progress: called as progress(stage, bytes done, bytes in all), in bytes of the input's files.

    Returns:
      A summary without any patient's values, also kept in metadata/dataset.json under `reader_summary`: per
      table rows = rows_emitted + sum(rows_set_aside); absent tables, tables not read; events by family;
      subjects by split.

    Raises:
      InputError: something in the input cannot be used; nothing is written.
      RunError: the disk is full.
    """
    input, output = Path(input), Path(output)
    paths = raw_files.find_tables(input, mimic.TABLES, source="MIMIC-IV")
    files.refuse_existing(output, what="MEDS dataset")
    every = [path for parts in paths.values() for path in parts]
    report = ByteProgress(progress, sum(path.stat().st_size for path in every))
    with files.written_folder(output, what="MEDS dataset") as folder:
        conversion = Conversion(
            folder,
            [table for table in mimic.TABLES if table.name in paths],
            source="mimic-iv",
            dataset_name="MIMIC-IV",
            dataset_version="2.x or 3.x",
            text_bytes=text_bytes(every),
        )
        titles = codes.read_titles(input)
        titles.own.update(spill(paths, mimic.TABLES, conversion, report, describing=mimic.DESCRIBING))
        report("writing", report.total)
        return conversion.finish(
            lambda counts: codes.describe(counts, titles),
            extra={"roles": roles.MIMIC_IV},
            summary={
                "absent_tables": [f"{t.folder}/{t.name}" for t in mimic.TABLES if t.name not in paths] + titles.absent,
                "tables_not_read": [
                    name for name in mimic.NOT_READ if raw_files.find_table((input / name).parent, Path(name).name)
                ],
            },
        )
