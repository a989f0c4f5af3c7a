"""OMOP's concepts: what an id is called, and which concepts stand above it.

Source: the OMOP Common Data Model 5.4, https://ohdsi.github.io/CommonDataModel/cdm54.html. A concept becomes
`VOCABULARY//code` (`SNOMED//65363002`); id 0 means that nothing matched. The vocabulary tables are large (millions of
rows), so only ids and codes are held; names and parents are read in a second pass, for the codes that occur.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import polars as pl

from ehrjax.core.codes import SEPARATOR
from ehrjax.ingest import raw_files
from ehrjax.ingest.raw_csv import Kind
from ehrjax.ingest.raw_tables import KeyIndex, Table, columns_of, words

CONCEPT = Table(
    "concept", "", columns_of(ids="concept_id", texts="concept_name vocabulary_id concept_code"), (), 0, "no events"
)
RELATIONSHIP = Table(
    "concept_relationship",
    "",
    columns_of(ids="concept_id_1 concept_id_2", texts="relationship_id"),
    (),
    0,
    "no events",
    optional={"invalid_reason": Kind.TEXT},
)
ANCESTOR = Table(
    "concept_ancestor",
    "",
    columns_of(ids="ancestor_concept_id descendant_concept_id min_levels_of_separation"),
    (),
    0,
    "no events",
)
TABLES = (CONCEPT, RELATIONSHIP, ANCESTOR)

# Relationships that lead from a concept to one above it, or from a source concept to its standard one.
UPWARD = ("Is a", "Maps to", "RxNorm has ing", "RxNorm is a", "RxNorm - ATC")

# The concepts that every CDM uses for persons and visits; extracts often leave them out of their concept table.
WELL_KNOWN = {
    8507: ("Gender", "M", "MALE"),
    8532: ("Gender", "F", "FEMALE"),
    8527: ("Race", "5", "White"),
    8516: ("Race", "3", "Black or African American"),
    8515: ("Race", "2", "Asian"),
    8557: ("Race", "4", "Native Hawaiian or Other Pacific Islander"),
    8657: ("Race", "1", "American Indian or Alaska Native"),
    38003563: ("Ethnicity", "Hispanic", "Hispanic or Latino"),
    38003564: ("Ethnicity", "Not Hispanic", "Not Hispanic or Latino"),
    9201: ("Visit", "IP", "Inpatient Visit"),
    9202: ("Visit", "OP", "Outpatient Visit"),
    9203: ("Visit", "ER", "Emergency Room Visit"),
    262: ("Visit", "ERIP", "Emergency Room and Inpatient Visit"),
}
NO_CONCEPT = "CONCEPT"


class Concepts:
    """Ids and codes of all concepts of a CDM.

    Attributes:
      unknown: distinct ids that were asked for and stand in no table.
    """

    def __init__(self, paths: Mapping[str, list[Path]]) -> None:
        """Reads the ids and codes; `paths` names the files of those of TABLES that are there.

        Raises:
          InputError: a table is damaged or lacks a column.
        """
        self._paths = paths
        self.unknown: set[int] = set()
        ids, vocabularies, codes = [], [], []
        wanted = {name: kind for name, kind in CONCEPT.columns.items() if name != "concept_name"}
        for batch in raw_files.read_batches(paths.get("concept", []), wanted):
            kept = batch.drop_nulls()
            ids.append(kept["concept_id"])
            vocabularies.append(kept.select(words("vocabulary_id")).to_series().cast(pl.Categorical))
            codes.append(kept.select(words("concept_code")).to_series())
        known = pl.DataFrame(
            {
                "id": list(WELL_KNOWN),
                "vocabulary": [concept[0] for concept in WELL_KNOWN.values()],
                "code": [concept[1] for concept in WELL_KNOWN.values()],
            },
            schema={"id": pl.Int64, "vocabulary": pl.Categorical, "code": pl.String},
        )
        if ids:
            read = pl.DataFrame(
                {"id": pl.concat(ids), "vocabulary": pl.concat(vocabularies), "code": pl.concat(codes)}
            ).unique("id", keep="first", maintain_order=True)
            known = pl.concat([read, known.filter(~pl.col("id").is_in(read["id"].implode()))])
        self._table = known
        self._index = KeyIndex(known["id"])

    def codes(self, ids: pl.Series) -> pl.Series:
        """[N] `VOCABULARY//code` of concept ids [N] int64; null for null and 0, `CONCEPT//id` for an unknown id."""
        rows = self._rows(ids)
        code = rows.select(pl.concat_str(pl.col("vocabulary").cast(pl.String), "code", separator=SEPARATOR)).to_series()
        missing = ids.is_not_null() & (ids != 0) & code.is_null()
        if missing.any():
            self.unknown.update(ids.filter(missing).unique().to_list())
        name = pl.select(pl.when(missing).then(pl.concat_str(pl.lit(f"{NO_CONCEPT}{SEPARATOR}"), ids.cast(pl.String))))
        return code.fill_null(name.to_series()).alias(ids.name)

    def short_codes(self, ids: pl.Series) -> pl.Series:
        """[N] the concepts' codes without their vocabulary, for units (`mg/dL`); null for null, 0 and unknown ids."""
        return self._rows(ids)["code"].alias(ids.name)

    def _rows(self, ids: pl.Series) -> pl.DataFrame:
        at = pl.Series(self._index.positions(ids.set(ids == 0, None)))
        return self._table.select("vocabulary", "code").select(pl.all().gather(at.set(at < 0, None)))

    def names(self, codes: Iterable[str]) -> dict[str, str]:
        """`VOCABULARY//code` -> its name, for those that have one."""
        wanted = pl.DataFrame({"full": sorted(set(codes))}, schema={"full": pl.String})
        found = {f"{vocabulary}{SEPARATOR}{code}": name for vocabulary, code, name in WELL_KNOWN.values()}
        full = pl.concat_str(words("vocabulary_id"), words("concept_code"), separator=SEPARATOR).alias("full")
        for batch in raw_files.read_batches(self._paths.get("concept", []), CONCEPT.columns):
            named = batch.drop_nulls().select(full, words("concept_name").alias("name"))
            found.update(named.join(wanted, on="full", how="semi").iter_rows())
        return found

    def parents(self, codes: Iterable[str]) -> dict[str, list[str]]:
        """`VOCABULARY//code` -> the codes one step above it, sorted; those that have none are left out."""
        wanted = pl.DataFrame({"full": sorted(set(codes))}, schema={"full": pl.String})
        whole = self._table.select(
            "id", pl.concat_str(pl.col("vocabulary").cast(pl.String), "code", separator=SEPARATOR).alias("full")
        )
        below = whole.join(wanted, on="full", how="semi")
        pairs = [
            *self._pairs(RELATIONSHIP, "concept_id_1", "concept_id_2", below["id"]),
            *self._pairs(ANCESTOR, "descendant_concept_id", "ancestor_concept_id", below["id"]),
        ]
        if not pairs:
            return {}
        named = (
            pl.concat(pairs)
            .join(whole.rename({"id": "child", "full": "code"}), on="child")
            .join(whole.rename({"id": "parent", "full": "above"}), on="parent")
            .filter(pl.col("code") != pl.col("above"))
        )
        grouped = named.select("code", "above").unique().sort("code", "above").group_by("code", maintain_order=True)
        return {code[0]: frame["above"].to_list() for code, frame in grouped}

    def _pairs(self, table: Table, child: str, parent: str, below: pl.Series) -> Iterable[pl.DataFrame]:
        wanted = np.sort(below.to_numpy())
        for batch in raw_files.read_batches(self._paths.get(table.name, []), table.columns, optional=table.optional):
            if table is RELATIONSHIP:
                upward = pl.col("relationship_id").is_in(UPWARD) & pl.col("invalid_reason").is_null()
            else:
                upward = pl.col("min_levels_of_separation") == 1
            batch = batch.filter(upward & pl.col(child).is_not_null() & pl.col(parent).is_not_null())
            yield batch.filter(pl.Series(np.isin(batch[child].to_numpy(), wanted))).select(
                pl.col(child).alias("child"), pl.col(parent).alias("parent")
            )
