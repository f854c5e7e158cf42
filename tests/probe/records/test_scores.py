"""The score table on disk: the rows of the scenes' tables, in their order, however many are in memory at a time."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pyarrow import parquet
from pyarrow.compute import field

from probe.records import SCORE_COLUMNS
from probe.records import scores as table
from probe.records.scores import holds, read_scores, write_scores


def scene(number: int) -> pd.DataFrame:
    """Two metrics by three heads; texts that other scenes lack, as categories or not."""
    rows = [("precision@5%", head, 0.1 * number + 0.01 * head) for head in (-1, 0, 1)] + [("entropy", -1, np.nan)]
    frame = pd.DataFrame(rows, columns=["metric", "head", "value"]).assign(
        model="m", step=7, scene=f"s{number}", unit=f"u{number // 2}", pair=f"s{number}:0-1", query_view=1, key_view=0,
        direction="tgt-ref", rotation_deg=10.0 * number, layer=3, layer_name="blocks.3", grid="4x4", timestep=500,
        protocol="attention-v1", pair_list="0", count=number,
    )  # fmt: skip
    return frame.astype({"scene": "category", "metric": "category"} if number % 2 else {})[list(SCORE_COLUMNS)]


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(table, "ROWS", 5)
    write_scores(tmp_path / "scores.parquet", (scene(number) for number in (4, 1, 3, 2, 0)))
    return tmp_path / "scores.parquet"


def whole() -> pd.DataFrame:
    return pd.concat([scene(number).astype({"scene": str, "metric": str}) for number in (4, 1, 3, 2, 0)])


def test_the_file_holds_the_rows_of_all_scenes_in_their_order(path: Path):
    read = pd.read_parquet(path)
    pd.testing.assert_frame_equal(read, whole().reset_index(drop=True).astype(read.dtypes))
    assert list(read.columns) == list(SCORE_COLUMNS)


def test_a_row_group_is_as_many_scenes_as_fill_it(path: Path):
    file = parquet.read_metadata(path)
    assert [file.row_group(n).num_rows for n in range(file.num_row_groups)] == [8, 8, 4]


def test_a_table_is_written_whole_or_not_at_all(tmp_path: Path, path: Path):
    def stopped():
        yield scene(9)
        raise OSError("disk full")

    before = path.read_bytes()
    with pytest.raises(OSError, match="disk full"):
        write_scores(path, stopped())
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["scores.parquet"]


def test_only_what_is_wanted_is_read_with_sorted_categories(path: Path):
    read = read_scores(path, ("scene", "metric", "head", "value"), (field("head") < 0) & (field("scene") != "s3"))
    expected = whole().query("head < 0 and scene != 's3'")[["scene", "metric", "head", "value"]].reset_index(drop=True)
    pd.testing.assert_frame_equal(read.astype(expected.dtypes), expected)
    assert list(read["scene"].cat.categories) == sorted(read["scene"].cat.categories)
    assert list(read["metric"].cat.categories) == ["entropy", "precision@5%"]


def test_holds_tells_whether_there_is_such_a_row(path: Path):
    assert holds(path, ("scene",), field("scene") == "s0")
    assert not holds(path, ("scene", "head"), (field("scene") == "s0") & (field("head") == 2))


@pytest.mark.parametrize("groups", ["none", "one"])
def test_an_empty_table_is_read_as_no_rows(tmp_path: Path, groups: str):
    path, empty = tmp_path / "scores.parquet", scene(0)[:0]
    if groups == "one":
        empty.to_parquet(path)
    else:
        write_scores(path, [])
    assert len(read_scores(path, ("scene", "head"), field("head") < 0)) == 0
