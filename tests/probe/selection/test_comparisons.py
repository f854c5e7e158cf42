"""The selected layer beside all it is compared with: on its grid, on the same queries, in order."""

import io

import pandas as pd
from rich.console import Console
from test_selection import METRIC, row, table_of

from probe.records import CEILING, SAME_POSITION, UNIFORM
from probe.selection import select_layer
from probe.selection.comparisons import comparison_table, comparisons


def scores() -> pd.DataFrame:
    beside = [
        row(model=name, layer=layer, grid=grid, scene=f"s{n}", value=value, timestep=-1, **more)
        for n in range(6)
        for name, layer, grid, value, more in (
            ("dsift", -1, "16x16", 0.45, {}),
            ("dsift", -1, "8x8", 0.99, {}),  # another grid
            ("dsift", -1, "16x16", 0.98, {"direction": "ref-tgt", "query_view": 0, "key_view": 1}),
            ("dsift", -1, "16x16", 0.97, {"metric": "precision@2%"}),
            ("epipolar", -1, "16x16", 0.11, {}),
            ("m: cameras only", 3, "16x16", 0.2, {}),
            ("m: cameras only", 5, "8x8", 0.96, {}),  # another layer
            ("m", 3, "16x16", 0.95, {"head": 0}),
        )
    ]
    table = table_of({3: ("16x16", [0.3, 0.5] * 3), 5: ("8x8", [0.01] * 6)})
    return pd.concat([table, pd.DataFrame(beside)], ignore_index=True)


def test_comparisons_stand_from_low_to_high_between_chance_and_ceiling():
    found = comparisons(scores(), select_layer(scores(), metric=METRIC, model="m"))
    assert found["model"].tolist() == [UNIFORM, SAME_POSITION, "epipolar", "m: cameras only", "m", "dsift", CEILING]
    assert found["value"].tolist() == [0.01, 0.02, 0.11, 0.2, 0.4, 0.45, 1.0]
    assert found["count"].tolist() == [600] * 7


def test_the_terminal_shows_them_all():
    selection, shown = select_layer(scores(), metric=METRIC, model="m"), io.StringIO()
    Console(file=shown, width=120).print(comparison_table(scores(), selection))
    said = shown.getvalue()
    assert "layer 3 beside other matchers, 16x16 tokens: precision@5%" in said
    assert [line.split()[0] for line in said.splitlines() if "0." in line][2:5] == ["epipolar", "m:", "m,"]
    low, high = comparisons(scores(), selection).set_index("model").loc["m", ["low", "high"]]
    assert f"{low:.3f}-{high:.3f}" in said
