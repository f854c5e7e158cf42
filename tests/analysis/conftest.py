"""A probe run folder made of hand-made numbers: what probe.run would write, without a model."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from browsing import CHROMIUM, FLAGS
from exploring import write_explored
from page_kinds import build_every_kind
from safetensors.numpy import save_file

from probe.records import (
    ALL_HEADS,
    CEILING,
    NO_LAYER,
    SAME_POSITION,
    SCORE_COLUMNS,
    UNIFORM,
    digest,
    rotation_bin,
    summarise,
    write_json,
)

METRICS = {"precision@2%": 0.5, "precision@5%": 1.0, "precision@10%": 1.4, "precision@1token": 1.1}
ATTENTION = {"mass_3x3": 0.3, "mass_key_view": 0.35, "entropy": 2.5, "cross_entropy": 3.1}
CEILINGS = {"16x16": 0.99, "8x8": 0.49, "4x4": 0.13}
CHANCES = {"16x16": 0.008, "8x8": 0.0075, "4x4": 0.006}
MAKER = ".transformer_blocks.0.attn1"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Say what the run holds; quality is a layer's precision over its ceiling."""

    model: str = "tiny"
    scenes: tuple[str, ...] = tuple(f"room-{number}" for number in range(6))
    timesteps: tuple[int, ...] = (100, 500)
    names: Mapping[int, str]
    grids: Mapping[int, str]
    heads: Mapping[int, int]
    quality: Mapping[int, float]
    views: int = 3
    protocol: str = "attention-v1"
    turn: float = 31.0

    @property
    def metric(self) -> str:
        return "precision@5%"


SMALL = Plan(
    names={
        2: f"down_blocks.1.attentions.0{MAKER}",
        7: f"mid_block.attentions.0{MAKER}",
        10: f"up_blocks.2.attentions.0{MAKER}",
    },
    grids={2: "16x16", 7: "8x8", 10: "16x16"},
    heads={2: 2, 7: 3, 10: 2},
    quality={2: 0.2, 7: 0.1, 10: 0.6},
)


def make_run(folder: Path, plan: Plan = SMALL) -> Path:
    """Write a whole run folder; the numbers depend on the plan only."""
    folder.mkdir(parents=True, exist_ok=True)
    views = view_pairs(plan)
    listed = views[(views["query_view"] == 0)]
    pairs = pd.DataFrame({"pair": listed["pair"], "scene": listed["scene"], "view_a": 0, "view_b": listed["key_view"],
                          "rotation_deg": listed["rotation_deg"], "rotation_bin": rotation_bin(listed["rotation_deg"]),
                          "overlap": 0.5})  # fmt: skip
    scores = make_scores(plan, views)
    scores = scores.assign(pair_list=digest(pairs), unit=scores["scene"])[list(SCORE_COLUMNS)]
    pairs.to_csv(folder / "pairs.csv", index=False)
    scores.to_parquet(folder / "scores.parquet")
    layers = layer_table(plan, scores)
    layers.to_csv(folder / "layers.csv", index=False)
    timesteps = pd.DataFrame({"timestep": plan.timesteps, "alpha_bar": [1 - t / 1000 for t in plan.timesteps]})
    timesteps.assign(snr=timesteps["alpha_bar"] / (1 - timesteps["alpha_bar"])).to_csv(
        folder / "timesteps.csv", index=False
    )
    write_settings(folder, plan)
    write_json(folder / "selection.json", selection(plan, layers, digest(pairs)))
    emergence(plan).to_csv(folder / "emergence.csv", index=False)
    write_examples(folder, plan, views)
    return folder


def write_settings(folder: Path, plan: Plan) -> None:
    settings = {"model": plan.model, "scenes": "shapes", "protocol": plan.protocol, "layers": "3d",
                "timesteps": list(plan.timesteps), "pairs": 6, "views": plan.views, "n_ref": 1, "seed": 0,
                "dtype": None, "baselines": ["pixels", "dsift"], "select_by": plan.metric}  # fmt: skip
    environment = {"python": "3.11.9", "torch": "2.13.0", "commit": "0123456789ab", "machine": "x86_64, 2 cores"}
    write_json(folder / "config.json", {"settings": settings, "environment": environment})


def view_pairs(plan: Plan) -> pd.DataFrame:
    """List all ordered pairs of views: the cameras of a scene stand on an arc."""
    rows = []
    for n, scene in enumerate(plan.scenes):
        angle = [0.0] + [(plan.turn * view + 7.0 * n) % 120 for view in range(1, plan.views)]
        for query in range(plan.views):
            for key in range(plan.views):
                if query != key:
                    pair = f"{scene}:{min(query, key)}-{max(query, key)}"
                    way = "-".join("ref" if view == 0 else "tgt" for view in (query, key))
                    rows.append((scene, pair, query, key, way, abs(angle[query] - angle[key])))
    return pd.DataFrame(rows, columns=["scene", "pair", "query_view", "key_view", "direction", "rotation_deg"])


def make_scores(plan: Plan, views: pd.DataFrame) -> pd.DataFrame:
    """Make the score table: the model, its nulls, two baselines and the references."""
    calls = [call_rows(plan, plan.model, 1.0, heads=True), call_rows(plan, f"{plan.model}: random weights", 0.15)]
    calls.append(call_rows(plan, f"{plan.model}: cameras only", 0.4))
    for grid in dict.fromkeys(plan.grids.values()):
        for model, level in {
            "pixels": 0.1,
            "dsift": 0.3,
            UNIFORM: CHANCES[grid] / CEILINGS[grid],
            SAME_POSITION: 0.25,
            CEILING: 1.0,
        }.items():
            calls.append(grid_rows(plan, model, grid, level))
    table = views.merge(pd.concat(calls, ignore_index=True), how="cross")
    random = np.random.default_rng(0)
    noise = (
        1
        + 0.12 * random.standard_normal(len(table))
        + 0.15 * random.standard_normal(len(plan.scenes))[table["scene"].factorize()[0]]
    )
    falls = np.exp(
        -table["rotation_deg"] / table["model"].map({UNIFORM: 1e9, CEILING: 1e9, SAME_POSITION: 40.0}).fillna(90.0)
    )
    shares = table["metric"].str.startswith(("precision", "mass"))
    steady = table["model"].isin([UNIFORM, CEILING])
    value = table["value"] * np.where(steady, 1.0, noise) * np.where(shares, falls, 1.0)
    return table.assign(value=np.where(shares, value.clip(0, 1), value), step=100)


def call_rows(plan: Plan, model: str, level: float, *, heads: bool = False) -> pd.DataFrame:
    rows = []
    for layer, name in plan.names.items():
        best = plan.quality[layer] * level
        for head in range(ALL_HEADS, plan.heads[layer] if heads else 0):
            factor = best * (1 if head == ALL_HEADS else 0.3 + 0.6 * ((7 * head + layer) % 5) / 4)
            for t in plan.timesteps:
                noisy = factor * (1 - (abs(t - 400) / 1000) ** 2)
                rows += metric_rows(plan, model, layer, name, head, t, noisy)
    return pd.DataFrame(rows)


def metric_rows(
    plan: Plan, model: str, layer: int, name: str, head: int, t: int, share: float
) -> list[dict[str, object]]:
    grid = plan.grids[layer]
    own = {"model": model, "layer": layer, "layer_name": name, "head": head, "timestep": t, "count": tokens(grid) // 2}
    native = {**own, "grid": grid, "protocol": plan.protocol}
    rows = [
        {**native, "metric": metric, "value": min(1.0, CEILINGS[grid] * factor) * share}
        for metric, factor in METRICS.items()
    ]
    if plan.protocol.startswith("ratio"):
        part = plan.metric + "|coverage="
        rows += [
            {**native, "metric": f"{part}{c}", "value": CEILINGS[grid] * share * (1.4 - 0.4 * c)}
            for c in (0.1, 0.5, 1.0)
        ]
        return [*rows, {**native, "metric": "kept", "value": 0.25}] if head == ALL_HEADS else rows[:4]
    shared = {**own, "grid": finest(plan), "protocol": plan.protocol + "/common-grid", "metric": plan.metric}
    if head == ALL_HEADS:
        rows.append({**shared, "value": share * (0.9 if grid == "16x16" else 0.6)})
    return rows + [
        {**native, "metric": metric, "value": level * (share if "mass" in metric else 1.5 - share)}
        for metric, level in ATTENTION.items()
    ]


def grid_rows(plan: Plan, model: str, grid: str, level: float) -> pd.DataFrame:
    own = {"model": model, "layer": NO_LAYER, "layer_name": "", "grid": grid, "head": ALL_HEADS, "timestep": -1,
           "protocol": plan.protocol, "count": tokens(grid) // 2}  # fmt: skip
    rows = [
        {**own, "metric": metric, "value": min(1.0, CEILINGS[grid] * factor) * level}
        for metric, factor in METRICS.items()
    ]
    if plan.protocol.startswith("ratio"):
        rows += [
            {**own, "metric": f"{plan.metric}|coverage={c}", "value": CEILINGS[grid] * level} for c in (0.1, 0.5, 1.0)
        ]
    elif model == UNIFORM:
        rows += [
            {**own, "metric": metric, "value": level}
            for metric, level in {"mass_3x3": 0.02, "mass_key_view": 0.3, "entropy": 4.0}.items()
        ]
    return pd.DataFrame(rows)


def tokens(grid: str) -> int:
    h, w = grid.split("x")
    return int(h) * int(w)


def finest(plan: Plan) -> str:
    return max(plan.grids.values(), key=tokens)


def layer_table(plan: Plan, scores: pd.DataFrame) -> pd.DataFrame:
    """Give layers.csv as the probe computes it: every number by probe.records.summarise."""
    rows = scores[(scores["direction"] == "tgt-ref") & (scores["head"] == ALL_HEADS)]
    native = rows[rows["protocol"] == plan.protocol]
    right = summarise(native[native["metric"] == plan.metric], ["model", "layer", "grid"])
    mine = right[right["model"] == plan.model].set_index("layer")
    shared = rows[(rows["protocol"] != plan.protocol) & (rows["model"] == plan.model)]
    common = summarise(shared, ["layer"]).set_index("layer").reindex(mine.index)
    mass = summarise(native[(native["metric"] == "mass_3x3") & (native["model"] == plan.model)], ["layer"]).set_index(
        "layer"
    )
    table = pd.DataFrame({"name": plan.names, "grid_h": grid_sides(plan), "grid_w": grid_sides(plan)}).reindex(
        mine.index
    )
    table = table.assign(precision=mine["value"], precision_low=mine["low"], precision_high=mine["high"])
    for column, model in {"chance": UNIFORM, "same_position": SAME_POSITION, "ceiling": CEILING}.items():
        by_grid = right[right["model"] == model].set_index("grid")["value"]
        table[column] = [by_grid[plan.grids[layer]] for layer in table.index]
    table["share_of_ceiling"] = table["precision"] / table["ceiling"]
    table["share_low"], table["share_high"] = mine["low"] / table["ceiling"], mine["high"] / table["ceiling"]
    table["skill"] = (table["precision"] - table["chance"]) / (table["ceiling"] - table["chance"])
    for column, part in {
        "common_grid_precision": "value",
        "common_grid_low": "low",
        "common_grid_high": "high",
    }.items():
        table[column] = common[part]
    table["mass_true"], table["causal_effect"] = mass["value"].reindex(table.index), np.nan
    ahead = table["precision_low"] > table[["chance", "same_position"]].max(axis=1)
    table = table.assign(null="same position", lead=table["precision"] - table["same_position"], above_null=ahead)
    counted = {name: mine[name] for name in ("count", "scenes", "units")}
    return table.assign(**counted).rename_axis("layer").reset_index()


def grid_sides(plan: Plan) -> dict[int, int]:
    return {layer: int(grid.split("x")[0]) for layer, grid in plan.grids.items()}


def selection(plan: Plan, layers: pd.DataFrame, pair_list: str) -> dict[str, object]:
    order = layers.sort_values("share_of_ceiling", ascending=False)
    columns = ["layer", "name", "share_of_ceiling", "share_low", "share_high"]
    entries = order[columns].rename(columns={"share_low": "low", "share_high": "high"}).to_dict("records")
    ties = [int(row.layer) for row in order.iloc[1:].itertuples() if row.share_high > order["share_low"].iloc[0]]
    return {**entries[0], "model": plan.model, "metric": plan.metric, "direction": "tgt-ref", "protocol": plan.protocol,
            "pair_list": pair_list, "ties": ties, "runners_up": entries[1:],
            "evidence": f"Layer {entries[0]['layer']} leads."}  # fmt: skip


def emergence(plan: Plan) -> pd.DataFrame:
    layers = pd.DataFrame({"layer": list(plan.names), "layer_name": list(plan.names.values())})
    table = pd.DataFrame({"step": [0, 1000, 2000, 4000, 8000], "scenes": "shapes"}).merge(layers, how="cross")
    value = 0.01 + 0.5 * table["layer"].map(plan.quality) * table["step"] / 8000
    chance = table["layer"].map(plan.grids).map(CHANCES)
    return table.assign(value=value, low=0.8 * value, high=1.2 * value, chance=chance, units=8)


def write_examples(folder: Path, plan: Plan, views: pd.DataFrame) -> None:
    """Write images and matches of the first scenes: each point moves to the right by its rotation."""
    random = np.random.default_rng(1)
    scenes = plan.scenes[:2]
    save_file({f"image/{scene}": random.integers(0, 255, (plan.views, 3, 16, 16), dtype=np.uint8) for scene in scenes},
              folder / "examples.safetensors")  # fmt: skip
    chosen = views[views["scene"].isin(scenes) & (views["direction"] == "tgt-ref")]
    tables = [match_rows(plan, row, layer) for row in chosen.itertuples() for layer in plan.names]
    pd.concat(tables, ignore_index=True).to_parquet(folder / "matches.parquet")


def match_rows(plan: Plan, row: object, layer: int) -> pd.DataFrame:
    side = grid_sides(plan)[layer]
    y, x = (part.ravel() for part in np.meshgrid(*[(np.arange(side) + 0.5) / side] * 2, indexing="ij"))
    true_x = x + row.rotation_deg / 300
    seen = true_x < 1
    random = np.random.default_rng(layer)
    wrong = random.random(len(x)) > plan.quality[layer]
    match_x = np.where(wrong, random.permutation(x), true_x.clip(0, 1))
    return pd.DataFrame(
        {"scene": row.scene, "n_ref": 1, "query_view": row.query_view, "key_view": row.key_view, "layer": layer,
         "layer_name": plan.names[layer], "grid": plan.grids[layer], "timestep": plan.timesteps[0], "query_x": x,
         "query_y": y, "match_x": match_x, "match_y": y, "true_x": np.where(seen, true_x, np.nan),
         "true_y": np.where(seen, y, np.nan), "visible": seen}
    )  # fmt: skip


@pytest.fixture(scope="session")
def make() -> Callable[[Path], Path]:
    """Give what writes a run folder, for tests that change it."""
    return make_run


@pytest.fixture(scope="session")
def make_probe() -> Callable[..., Path]:
    """Give what writes a run folder; other fields of the plan by name."""
    return lambda folder, **changes: make_run(folder, replace(SMALL, **changes))


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a run folder that tests only read."""
    return make_run(tmp_path_factory.mktemp("runs") / "probe")


@pytest.fixture(scope="session")
def ratio_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a run folder of the protocol ratio-v1."""
    return make_run(tmp_path_factory.mktemp("runs") / "ratio", replace(SMALL, protocol="ratio-v1"))


@pytest.fixture(scope="session")
def make_explored() -> Callable[..., Path]:
    """Give what writes a run folder with the match explorer's data; other fields of the plan by name."""

    def make(folder: Path, seed: int = 0, **changes: object) -> Path:
        plan = replace(SMALL, **changes)
        layers = {layer: (side, plan.heads[layer]) for layer, side in grid_sides(plan).items()}
        write_explored(make_run(folder, plan), plan.scenes[:2], layers, len(plan.timesteps), seed)
        return folder

    return make


@pytest.fixture(scope="session")
def built(make_explored: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Give a page of each kind, that tests only read."""
    return build_every_kind(tmp_path_factory.mktemp("kinds"), make_explored)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Return a chromium of playwright's, which tests import where they drive it."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()
