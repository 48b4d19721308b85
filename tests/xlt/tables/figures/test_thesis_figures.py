"""Figures of the thesis that stand on a table's cells; the numbers by hand."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from xlt.errors import UsageError
from xlt.modules import ModuleHeader, SparseDelta
from xlt.modules.sparse_delta import Entries
from xlt.plan.planner import Plan, Run
from xlt.plan.store import RunStore
from xlt.tables.config import FigureConfig, GridConfig, SearchConfig, SystemConfig
from xlt.tables.figures import FigurePanel, save_figure, save_panels
from xlt.tables.figures.figure import SeriesStyles
from xlt.tables.grid import Cell, Grid

Scores = dict[str, dict[str, list[float]]]


@pytest.fixture
def store(plan: Plan) -> RunStore:
    return plan.store


@pytest.fixture
def run(planned: Callable[..., Run], words: tuple[str, ...], store: RunStore) -> Callable[..., Run]:
    """`run(seed, **result)`: a finished run with that in its `result.json`."""

    def finish(seed: int, **result: Any) -> Run:
        made = planned(*words, f"seed={seed}")
        store.folder(made.fingerprint).mkdir(parents=True)
        (store.folder(made.fingerprint) / "result.json").write_text(json.dumps({"training": {}, **result}))
        return made

    return finish


def grid_of(name: str, scores: Scores, **changes: Any) -> Grid:
    """A table whose cells are given, system -> column -> values; labels are the names in capitals."""
    systems = {system: SystemConfig(system.upper(), "pos", [], "task") for system in scores}
    columns = [column for column in next(iter(scores.values())) if column != "avg"]
    config = GridConfig(title=name, metric="f1", systems=systems, columns=columns, **changes)
    cells = {
        system: {column: Cell(list(values), ["f"] * len(values)) for column, values in row.items()}
        for system, row in scores.items()
    }
    return Grid(name, config, [1], cells)


def back(grid: Grid, runs: dict[str, list[Run]], **of: dict[str, list[Run]]) -> None:
    """Puts behind a cell's values the first runs of its system; or those that are given, system -> column -> runs."""
    for name, row in grid.cells.items():
        for column, cell in row.items():
            behind = of.get(name, {}).get(column, runs.get(grid.config.systems[name].label, []))
            cell.backed_by = [run.fingerprint for run in behind[: len(cell.values)]]


def numbers(store: RunStore, name: str) -> dict[str, Any]:
    return json.loads((store.root / "tables" / f"{name}.figure.json").read_text())["numbers"]


def is_a_picture(path: Path | None) -> None:
    from PIL import Image

    assert path is not None
    with Image.open(path) as image:
        assert len(set(image.convert("RGB").resize((64, 64)).get_flattened_data())) > 10  # not a blank page
    assert path.with_suffix(".pdf").read_bytes().startswith(b"%PDF")
    assert "</svg>" in path.with_suffix(".svg").read_text()


def test_shots_have_a_line_for_sfts_and_one_for_adapters_with_the_languages_spread(
    run: Callable[..., Run], store: RunStore
) -> None:
    scores: Scores = {
        "k0": {"ace": [60.0, 62.0], "ban": [70.0, 72.0], "avg": [65.0, 67.0]},
        "k20": {"ace": [64.0], "ban": [74.0], "avg": [69.0]},
        "adapter_k0": {"ace": [50.0], "ban": [], "avg": []},
    }
    grid = grid_of("shots", scores, reference={"k0": {"avg": 80.0}, "adapter_k0": {"avg": 75.0}})
    first, second = run(1), run(2)
    runs = {"K0": [first, second], "K20": [first], "ADAPTER_K0": [first]}
    back(grid, runs)
    is_a_picture(save_figure(FigureConfig("shots", "macro-F1"), runs, store, grid))
    # Languages 61 and 71, then 64 and 74: a standard deviation of sqrt(50). Adapters lack a language.
    found = numbers(store, "shots")
    assert found["SFT"] == [[0.0, 66.0, pytest.approx(50**0.5), 80.0], [20.0, 69.0, pytest.approx(50**0.5), None]]
    assert found["adapters"] == [[0.0, None, None, 75.0]]


def test_a_point_of_the_shots_is_of_the_seeds_that_all_its_languages_have(
    run: Callable[..., Run], store: RunStore
) -> None:
    scores: Scores = {"k0": {"ace": [60.0, 62.0], "ban": [72.0]}, "k20": {"ace": [61.0], "ban": [90.0]}}
    grid = grid_of("shots", scores)
    first, second = run(1), run(2)
    runs = {"K0": [first, second], "K20": [first, second]}
    back(grid, runs, k0={"ban": [second]}, k20={"ban": [second]})
    save_figure(FigureConfig("shots", "macro-F1"), runs, store, grid)
    # Of no shots seed 2 has both languages, 62 and 72; of 20 no seed has.
    assert numbers(store, "shots")["SFT"] == [[0.0, 67.0, pytest.approx(50**0.5), None], [20.0, None, None, None]]


def test_densities_make_a_grid_with_holes(run: Callable[..., Run], store: RunStore) -> None:
    name = "lt_sft density={} overrides=['method.density={}','train.max_steps=7']"
    scores: Scores = {
        name.format("0.05", "0.05"): {"fao": [50.0], "avg": [50.0]},
        name.format("0.05", "1.0"): {"fao": [40.0], "avg": [40.0]},
        name.format("0.3", "0.05"): {"fao": [55.0], "avg": [55.0]},
        name.format("0.3", "1.0"): {"fao": [], "avg": []},
    }
    runs = {system.upper(): [run(seed)] for seed, system in enumerate(scores)}
    is_a_picture(save_figure(FigureConfig("densities", "uas"), runs, store, grid_of("densities", scores)))
    assert numbers(store, "densities") == {
        "language": [5.0, 100.0], "task": [5.0, 30.0], "scores": [[50.0, 40.0], [55.0, None]],
    }  # fmt: skip
    with pytest.raises(UsageError, match="system x does not say both densities"):
        save_figure(FigureConfig("densities", None), runs, store, grid_of("bad", {"x": {"fao": [], "avg": []}}))


def test_languages_are_compared_pair_by_pair(run: Callable[..., Run], store: RunStore) -> None:
    header = ModuleHeader(kind="sparse_delta", method="lt_sft", base_model="tiny", base_hash="0")
    runs = {}
    chosen = {"fao": [0, 1, 2, 3], "sme": [2, 3, 4, 5], "myv": [3, 7, 8, 9]}
    for seed, (language, entries) in enumerate(chosen.items()):
        made = run(seed)
        made.config = dataclasses.replace(made.config, language=language)
        delta = {"w": Entries(torch.tensor(entries), torch.ones(4), (10,))}
        own = dataclasses.replace(header, fingerprint=made.fingerprint)
        SparseDelta(own, delta).save(store.module_file(made.fingerprint))
        runs[language] = [made]
    grid = grid_of("languages", {language: {"avg": []} for language in chosen})
    is_a_picture(save_figure(FigureConfig("languages", None), runs, store, grid))
    found = numbers(store, "languages")
    # Of four entries fao and sme share two, myv one with each; two draws of 4 of 10 share 1.6.
    assert found["languages"] == ["fao", "sme", "myv"]
    assert found["pairs"] == [[100, 50, 25], [50, 100, 25], [25, 25, 100]]
    assert found["chance"] == pytest.approx(40)


def test_a_search_has_a_panel_a_system_and_a_line_for_its_other_key(run: Callable[..., Run], store: RunStore) -> None:
    scores: Scores = {
        "lora rank=8 learning_rate=0.01": {"a": [50.0], "avg": [50.0]},
        "lora rank=8 learning_rate=0.1": {"a": [52.0, 54.0], "avg": [52.0, 54.0]},
        "lora rank=16 learning_rate=0.1": {"a": [], "avg": []},
        "decay weight_decay=0": {"a": [], "avg": []},
    }
    searches = {
        "lora": SearchConfig({"method.rank": ["8", "16"], "train.learning_rate": ["0.01", "0.1"]}, "rank=8"),
        "decay": SearchConfig({"train.weight_decay": ["0"]}, None),
    }
    runs = {system.upper(): [run(seed)] for seed, system in enumerate(scores)}
    grid = grid_of("search", scores, searches=searches)
    is_a_picture(save_figure(FigureConfig("search", "accuracy"), runs, store, grid))
    found = numbers(store, "search")
    assert list(found) == ["lora"]
    assert (found["lora"]["key"], found["lora"]["best"]) == ("learning_rate", "rank=8")
    assert found["lora"]["lines"] == {
        "rank=8": [[0.01, 50.0, None, None], [0.1, 53.0, 2**0.5, None]],
        "rank=16": [[0.1, None, None, None]],
    }


@pytest.fixture
def with_text(run: Callable[..., Run], store: RunStore, tmp_path: Path) -> Callable[..., Run]:
    """`with_text(seed, **bytes)`: a run evaluated with modules of languages whose texts have so many bytes."""

    def finish(seed: int, **sizes: int) -> Run:
        made = run(seed, metric="accuracy", training={"best/accuracy": 80.0})
        for language, size in sizes.items():
            (tmp_path / f"{language}.x.txt").write_bytes(b"a" * size)
            fingerprint = f"{language}{seed}".ljust(12, "0")
            folder = store.folder(fingerprint)
            folder.mkdir(parents=True)
            source = {"path": str(tmp_path / "{code}.txt"), "codes": {language: f"{language}.x"}}
            config = {"language": language, "data": {"sources": {"text": source}}}
            manifest = {"fingerprint": fingerprint, "identity": {}, "config": config}
            (folder / "manifest.json").write_text(json.dumps(manifest))
            made.evaluation_needs.add(fingerprint)
        return made

    return finish


def test_gains_are_differences_with_and_without_adaptation_over_the_text(
    with_text: Callable[..., Run], store: RunStore
) -> None:
    scores: Scores = {
        "zs": {"ace": [70.0, 72.0], "ban": [60.0], "jav": [50.0]},
        "zs_la": {"ace": [68.0, 66.0], "ban": [], "jav": [40.0]},
        "fs": {"ace": [80.0], "ban": [80.0], "jav": []},
    }
    reference = {"zs": {"ace": 80.0, "ban": 81.0}, "zs_la": {"ace": 72.8, "ban": 72.0}}
    facts = {"ace": {"text MB": 90.0}}
    grid = grid_of("gains", scores, reference=reference, facts=facts)
    sizes = {"ace": 2_000_000, "ban": 1_000_000, "jav": 3_000_000}
    first, second, third = (with_text(seed, **sizes) for seed in (1, 2, 3))
    runs = {"ZS": [first, second], "ZS_LA": [second, third]}
    back(grid, runs, zs_la={"jav": [third]})
    is_a_picture(save_figure(FigureConfig("gains", "F1"), runs, store, grid))
    # Seed 2 alone has Acehnese with and without: 72 and 68. For Balinese and Javanese none has.
    assert numbers(store, "gains") == {"ours": {"ZS": {"ace": [2.0, 4.0]}}, "thesis": {"ZS": {"ace": [90.0, 7.2]}}}


def test_resources_put_scores_over_those_on_the_source_language(with_text: Callable[..., Run], store: RunStore) -> None:
    made = with_text(1, ace=500_000, jav=250_000)
    scores: Scores = {"zs_la": {"ind": [80.0], "ace": [60.0], "jav": [72.0]}}
    facts = {"ace": {"in translation model": 1.0}, "jav": {"in translation model": 1.0, "in encoder": 1.0}}
    grid = grid_of("resources", scores, facts=facts, average=["ace", "jav"])
    for cell in grid.cells["zs_la"].values():
        cell.backed_by = [made.fingerprint]
    is_a_picture(save_figure(FigureConfig("resources", "F1"), {"ZS_LA": [made]}, store, grid))
    assert numbers(store, "resources") == {
        "ours": {"ZS_LA": {"ace": [0.5, 0.75], "jav": [0.25, 0.9]}},
        "known": {"ace": "translation model", "jav": "encoder and translation model"},
    }


def test_resources_need_a_column_of_the_source_language(with_text: Callable[..., Run], store: RunStore) -> None:
    made = with_text(1, ace=500_000)
    grid = grid_of("resources", {"zs_la": {"ace": [60.0]}})
    back(grid, {"ZS_LA": [made]})
    with pytest.raises(UsageError, match=r"kind=resources: no column of the source language"):
        save_figure(FigureConfig("resources", "F1"), {"ZS_LA": [made]}, store, grid)


def test_speed_is_seconds_over_the_steps_of_all_phases(run: Callable[..., Run], store: RunStore) -> None:
    made = run(1, training={"seconds": 12.0})
    lines = [{"phase": "dense", "step": 1}, {"phase": "dense", "step": 2}, {"phase": "sparse", "step": 4}]
    (store.folder(made.fingerprint) / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    facts = {"lora": {"seconds": 30.5, "GB": 40.0, "score": 52.3}}
    grid = grid_of("speed", {"lora": {"a": [50.0], "avg": [50.0]}}, facts=facts)
    is_a_picture(save_figure(FigureConfig("speed", "accuracy"), {"LORA": [made]}, store, grid))
    assert numbers(store, "speed") == {
        "ours, seconds a step": {"LORA": [2.0, 50.0]},
        "thesis, seconds a step": {"LORA": [30.5, 52.3]},
        "thesis, GPU memory (GB)": {"LORA": [40.0, 52.3]},
    }


def test_published_numbers_stand_beside_ours(run: Callable[..., Run], store: RunStore) -> None:
    scores: Scores = {"lt_sft": {"avg": [50.0]}}
    made = run(1, module={"density": 0.08})
    grid = grid_of("sizes", scores, reference={"lt_sft": {"avg": 71.1}})
    is_a_picture(save_figure(FigureConfig("sizes", "accuracy"), {"LT_SFT": [made]}, store, grid))
    assert numbers(store, "sizes") == {"LT_SFT": [[8.0, 50.0, None, 71.1]]}


def test_a_picture_drawn_from_less_never_replaces_one_drawn_from_more(
    run: Callable[..., Run], store: RunStore, capfd: pytest.CaptureFixture[str]
) -> None:
    figure, folder = FigureConfig("sizes", "accuracy"), store.root / "tables"
    runs = {"X": [run(1, module={"density": 0.1})], "Y": [run(2, module={"density": 0.2})]}
    grid = grid_of("all", {"x": {"avg": [50.0]}, "y": {"avg": [60.0]}})
    one_missing = grid_of("all", {"x": {"avg": [50.0]}, "y": {"avg": []}})
    one_missing.cells["y"]["avg"].reason = "not run"

    def save(grid: Grid) -> tuple[str, list[str], dict[str, bytes]]:
        picture, lines = save_panels("all", "All tasks", {"": FigurePanel(figure, runs, grid)}, store)
        is_a_picture(picture)
        assert picture is not None
        return picture.name, lines, {path.name: path.read_bytes() for path in folder.iterdir()}

    assert save(one_missing)[0] == "all.png"
    name, lines, before = save(grid)
    assert (name, lines) == ("all.png", []) and len(before) == 4
    name, (line,), after = save(one_missing)
    assert name == "all.incomplete.png" and after.items() > before.items() and len(after) == 8
    assert str(folder / "all.png") in line and "all.incomplete.png" in line
    assert numbers(store, "all.incomplete") != numbers(store, "all")
    result = store.folder(runs["Y"][0].fingerprint) / "result.json"
    result.rename(result.with_suffix(".lost"))
    assert save(grid)[0] == "all.incomplete.png"
    result.with_suffix(".lost").rename(result)
    assert save(grid)[2].keys() == before.keys()
    grid.seeds, runs["X"] = [1, 2], [*runs["X"], run(3, module={"density": 0.1})]
    assert save(grid)[0] == "all.png"
    grid.seeds, runs["X"] = [1], runs["X"][:1]
    assert save(grid)[0] == "all.incomplete.png"
    (folder / "all.figure.json").unlink()
    assert save(grid)[2].keys() == before.keys()
    (folder / "all.figure.json").write_text((folder / "all.figure.json").read_text().replace("60.0", "61.0"))
    assert save(one_missing)[0] == "all.png"
    assert "all.figure.json: its content or its place does not fit its checksum" in capfd.readouterr().err
    (folder / "all.figure.json").write_text('{"title": "All tasks"}')
    assert save(one_missing)[0] == "all.png"
    assert "all.figure.json: it has no numbers of a picture" in capfd.readouterr().err


def test_a_picture_of_several_tables_leaves_out_those_with_nothing_to_show(
    run: Callable[..., Run], planned: Callable[..., Run], words: tuple[str, ...], store: RunStore
) -> None:
    figure = FigureConfig("sizes", "accuracy")
    there = grid_of("a", {"x": {"avg": [50.0]}})
    empty = grid_of("b", {"x": {"avg": []}})
    made = {"X": [run(1, module={"density": 0.1})]}
    panels = {
        "POS": FigurePanel(figure, made, there),
        "DP": FigurePanel(figure, made, there),
        "NER": FigurePanel(figure, {"X": [planned(*words, "seed=9")]}, there),
        "NLI": FigurePanel(figure, made, empty),
    }
    picture, left_out = save_panels("all", "All tasks", panels, store)
    is_a_picture(picture)
    assert left_out == [
        "NER: none of its runs is finished",
        "NLI: table.figure.kind=sizes: no system has all its columns yet",
    ]
    assert numbers(store, "all") == {heading: {"X": [[10.0, 50.0, None, None]]} for heading in ("POS", "DP")}
    with pytest.raises(UsageError, match=r"NLI: table\.figure\.kind=sizes: no system"):
        save_panels("none", "", {"NER": panels["NER"], "NLI": panels["NLI"]}, store)


def colours_in(path: Path | None) -> list[set[str]]:
    """Of the lines and marks of an SVG with white ground, each panel's colours, in order."""
    assert path is not None
    panels = path.with_suffix(".svg").read_text().split('id="axes_')[1:]
    return [set(re.findall(r"(?:stroke|fill): (#[0-9a-f]{6})", panel)) & set(SHADES) for panel in panels]


SHADES = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00"]


@pytest.mark.parametrize("kind", ["sizes", "trade_off", "settings", "gains", "resources"])
def test_a_system_has_one_colour_in_all_panels_of_a_picture(
    kind: str, with_text: Callable[..., Run], store: RunStore
) -> None:
    made = with_text(1, ace=500_000)
    (store.folder(made.fingerprint) / "result.json").write_text(
        json.dumps({"metric": "f1", "training": {"best/f1": 80.0}, "module": {"density": 0.1}})
    )
    panels = {}
    for heading, names in {"POS": ["lt_sft", "rand", "mad_x"], "NER": ["lt_sft", "mad_x"], "NLI": ["mad_x"]}.items():
        rows = [f"{name} cap=3" for name in names] if kind == "settings" else names
        rows = [of for name in names for of in (name, f"{name}_la")] if kind == "gains" else rows
        scores: Scores = {row: {"ind": [50.0], "ace": [50.0], "avg": [50.0]} for row in rows}
        grid = grid_of(heading, scores, average=["ace"])
        for row in rows:
            grid.cells[row]["ace"].backed_by = [made.fingerprint]
            grid.cells[row]["ace"].costs = [{"flops": 1e6, "parameters": 1e6}]
        panels[heading] = FigurePanel(FigureConfig(kind, "f1"), {row.upper(): [made] for row in rows}, grid)
    picture, left_out = save_panels("same", "", panels, store)
    is_a_picture(picture)
    assert left_out == []
    first, second, third = SHADES[:3]
    assert colours_in(picture) == [{first, second, third}, {first, third}, {third}]


def test_a_system_keeps_its_colour_when_one_before_it_is_not_finished(run: Callable[..., Run], store: RunStore) -> None:
    grid = grid_of("sizes", {"lt_sft": {"avg": []}, "mad_x": {"avg": [50.0]}, "rand": {"avg": [51.0]}})
    runs = {label: [run(seed, module={"density": 0.1})] for seed, label in enumerate(("MAD_X", "RAND"))}
    picture = save_figure(FigureConfig("sizes", "f1"), runs, store, grid)
    assert colours_in(picture) == [{SHADES[1], SHADES[2]}]


def test_systems_that_are_not_drawn_use_up_no_colour(with_text: Callable[..., Run], store: RunStore) -> None:
    scores: Scores = {name: {"ace": [50.0]} for name in ("zs", "zs_la", "up", "fs", "fs_la")}
    grid = grid_of("gains", scores)
    made = with_text(1, ace=500_000)
    runs = {name.upper(): [made] for name in scores}
    back(grid, runs)
    assert colours_in(save_figure(FigureConfig("gains", "F1"), runs, store, grid)) == [set(SHADES[:2])]


def test_of_many_systems_no_two_look_the_same() -> None:
    styles = SeriesStyles()
    seen = [tuple(styles(f"system {number}").values()) for number in range(49)]
    assert len(set(seen)) == 49
    assert tuple(styles("system 3").values()) == seen[3]


def test_a_look_by_its_place_is_not_given_to_another() -> None:
    styles = SeriesStyles(["a", "b"])
    seen = [styles(label)["color"] for label in ("b", "x", "a", "y", "b")]
    assert seen == [styles("b")["color"], "#0072B2", "#009E73", "#CC79A7", "#D55E00"]


def test_a_title_that_is_wider_than_its_picture_is_wrapped(run: Callable[..., Run], store: RunStore) -> None:
    grid = grid_of("sizes", {"a": {"avg": [50.0]}})
    panels = {"": FigurePanel(FigureConfig("sizes", "f1"), {"A": [run(1, module={"density": 0.1})]}, grid)}
    title = "Distilled bilingual models: score, operations, parameters (thesis Figure 5.1)"
    picture, _ = save_panels("sizes", title, panels, store)
    assert picture is not None
    text = picture.with_suffix(".svg").read_text()
    assert title not in text
    assert "Distilled bilingual models" in text and "(thesis Figure 5.1)" in text
