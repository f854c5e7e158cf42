"""The score table on disk: written and read some scenes at a time, so that it is never in memory whole."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
from pyarrow import compute, parquet, types

from probe.records.folder import write
from probe.records.table import SCORE_COLUMNS

ROWS = 2**18
"""Rows that a row group of the file has at least, but for the last one: thousands of small ones open slowly."""
INTEGERS = ("step", "query_view", "key_view", "layer", "head", "timestep", "count")
KINDS = {**dict.fromkeys(INTEGERS, pa.int64()), **dict.fromkeys(("rotation_deg", "value"), pa.float64())}
SCHEMA = pa.schema([(name, KINDS.get(name, pa.string())) for name in SCORE_COLUMNS])


def write_scores(path: Path, scenes: Iterable[pd.DataFrame]) -> None:
    """Write a score table from the tables of its scenes, whole or not at all; a few scenes are in memory at a time.

    Args:
        path: Of the Parquet file.
        scenes: Score tables, in the order of the file.
    """
    write(path, lambda part: _write(part, scenes))


def _write(path: Path, scenes: Iterable[pd.DataFrame]) -> None:
    with parquet.ParquetWriter(path, SCHEMA) as writer:
        for group in _grouped(pa.Table.from_pandas(scene, SCHEMA, preserve_index=False) for scene in scenes):
            writer.write_table(group)


def _grouped(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Join tables until they have enough rows for a row group."""
    group: list[pa.Table] = []
    for table in tables:
        group.append(table)
        if sum(part.num_rows for part in group) >= ROWS:
            yield pa.concat_tables(group)
            group = []
    if group:
        yield pa.concat_tables(group)


def row_groups(path: Path, columns: Sequence[str]) -> Iterator[pa.Table]:
    """Read some columns of a score table, one row group at a time; text is read as dictionaries.

    Args:
        path: Of the Parquet file.
        columns: Those to read.

    Yields:
        At least one table, which may be empty.
    """
    schema = parquet.read_schema(path)
    text = [name for name in columns if _is_text(schema.field(name).type)]
    with parquet.ParquetFile(path, read_dictionary=text) as file:
        for group in range(file.num_row_groups):
            yield file.read_row_group(group, columns=list(columns))
        if not file.num_row_groups:
            yield file.read(columns=list(columns))


def holds(path: Path, columns: Sequence[str], wanted: compute.Expression) -> bool:
    """Return whether a score table has a row of some kind, reading no further than the first.

    Args:
        path: Of the Parquet file.
        columns: That tell the kind.
        wanted: The kind.
    """
    return any(group.filter(wanted).num_rows > 0 for group in row_groups(path, columns))


def read_scores(path: Path, columns: Sequence[str], wanted: compute.Expression) -> pd.DataFrame:
    """Read the rows of a score table that are wanted; no more than a row group of the others is in memory.

    Args:
        path: Of the Parquet file.
        columns: Those to read.
        wanted: Which rows, told by these columns.

    Returns:
        The rows, in the order of the file; text as categories.
    """
    return as_frame([group.filter(wanted) for group in row_groups(path, columns)])


def as_frame(groups: Sequence[pa.Table]) -> pd.DataFrame:
    """Join parts of a score table; text becomes categories that are sorted by name, whatever their order in the file.

    Args:
        groups: From :func:`row_groups`, at least one.
    """
    frame = pa.concat_tables(groups).to_pandas()
    text = frame.select_dtypes("category")
    return frame.assign(**{name: text[name].cat.set_categories(sorted(text[name].cat.categories)) for name in text})


def _is_text(kind: pa.DataType) -> bool:
    return any(test(kind) for test in (types.is_string, types.is_large_string, types.is_dictionary))
