"""Figures from runs in a store; the numbers against hand-made modules and records."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure

from xlt.config import faults
from xlt.errors import UsageError
from xlt.modules import ModuleHeader, SparseDelta
from xlt.modules.generator import AdapterGenerator, Generator
from xlt.modules.sparse_delta import Entries
from xlt.plan.planner import Plan, Run
from xlt.plan.store import RunStore
from xlt.tables.config import FigureConfig, GridConfig, SystemConfig
from xlt.tables.figures import save_figure, trade_off
from xlt.tables.figures.figure import SeriesStyles
from xlt.tables.grid import Cell, Grid

HEADER = ModuleHeader(
    kind="sparse_delta", method="spiel_ag", base_model="tiny", base_hash="0", language=None, task="pos",
    fingerprint="f", provenance={},
)  # fmt: skip


@pytest.fixture
def store(plan: Plan) -> RunStore:
    return plan.store


@pytest.fixture
def finished(planned: Callable[..., Run], words: tuple[str, ...], store: RunStore) -> Callable[..., Run]:
    """`finished(seed, indices, ages)`: a run that left such a module of two tensors, 10 and 5 entries large."""

    def finish(seed: int, indices: tuple[list[int], list[int]], ages: dict[str, int] | None = None) -> Run:
        run = planned(*words, f"seed={seed}")
        folder = store.folder(run.fingerprint)
        folder.mkdir(parents=True)
        (folder / "result.json").write_text('{"training": {}}')
        entries = {
            name: Entries(torch.tensor(chosen), torch.ones(len(chosen)), (size,))
            for (name, size), chosen in zip((("a", 10), ("b", 5)), indices, strict=True)
        }
        provenance = {} if ages is None else {"entries_grown_at_step": ages}
        header = dataclasses.replace(HEADER, fingerprint=run.fingerprint, provenance=provenance)
        SparseDelta(header, entries).save(folder / "module.safetensors")
        return run

    return finish


def _grid(name: str, systems: dict[str, str] | None = None, scores: dict[str, list[float]] | None = None) -> Grid:
    """A table with one system a name -> label, its averages over seeds given."""
    shown = {system: SystemConfig(label, "pos", [], "task") for system, label in (systems or {}).items()}
    config = GridConfig(title=name, metric="accuracy", systems=shown, columns=["fao"])
    return Grid(name, config, [1], {system: {"avg": Cell(values)} for system, values in (scores or {}).items()})


def _records(store: RunStore, run: Run, losses: list[tuple[str, int, float]]) -> None:
    lines = []
    for phase, step, loss in losses:
        lines.append({"phase": phase, "step": step, "loss": 1.0})
        lines.append({"phase": phase, "step": step, "validation/loss": loss})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (store.folder(run.fingerprint) / "metrics.jsonl").write_text(text)


def _numbers(store: RunStore, name: str) -> dict[str, dict[str, object]]:
    return json.loads((store.root / "tables" / f"{name}.figure.json").read_text())["numbers"]


def test_overlap_is_the_share_of_common_entries(finished: Callable[..., Run], store: RunStore) -> None:
    runs = [finished(1, ([0, 1, 2], [0])), finished(2, ([1, 2, 3], [4])), finished(3, ([2, 3, 4], [0]))]
    picture = save_figure(FigureConfig("overlap", None), {"SpIEL-AG": runs}, store, _grid("overlap"))
    found = _numbers(store, "overlap")["SpIEL-AG"]
    # Of 4 entries: 1 and 2 share {a1, a2}, 1 and 3 {a2, b0}, 2 and 3 {a2, a3}; all share {a2}.
    assert found["pairs"] == [[100, 50, 50], [50, 100, 50], [50, 50, 100]]
    assert found["all"] == 25
    # Two random draws of 3 of 10 and 1 of 5 share 9/10 + 1/5 entries on average.
    assert found["chance"] == pytest.approx(100 * (0.9 + 0.2) / 4)
    assert found["seeds"] == [1, 2, 3]
    _is_a_picture(picture)


def test_ages_are_shares_of_a_modules_entries_averaged_over_seeds(
    finished: Callable[..., Run], store: RunStore
) -> None:
    runs = [finished(1, ([0, 1, 2], [0]), {"20": 3, "40": 1}), finished(2, ([0, 1, 2], [0]), {"20": 4})]
    picture = save_figure(FigureConfig("ages", None), {"SpIEL-AG": runs}, store, _grid("ages"))
    assert _numbers(store, "ages") == {"SpIEL-AG": {"20": 87.5, "40": 12.5}}
    _is_a_picture(picture)


def test_curves_go_through_the_phases_and_show_every_seed(finished: Callable[..., Run], store: RunStore) -> None:
    runs = [finished(seed, ([0], [0])) for seed in (1, 2)]
    _records(store, runs[0], [("dense", 2, 3.0), ("sparse", 1, 2.0), ("sparse", 2, 1.0)])
    _records(store, runs[1], [("dense", 2, 4.0), ("sparse", 1, 2.5), ("sparse", 2, 1.5)])
    config = FigureConfig("curves", "loss")
    picture = save_figure(config, {"LT-SFT": runs, "not run": []}, store, _grid("curves"))
    assert _numbers(store, "curves") == {"LT-SFT": {"2": [3.0, 4.0], "3": [2.0, 2.5], "4": [1.0, 1.5]}}
    _is_a_picture(picture)


def test_sizes_put_the_rows_of_a_search_on_one_line(finished: Callable[..., Run], store: RunStore) -> None:
    names = {"lt_sft density=0.1": "LT-SFT density=0.1", "lt_sft density=0.2": "LT-SFT density=0.2", "bitfit": "BitFit"}
    runs = {label: [finished(seed, ([0], [0]))] for seed, label in enumerate(names.values())}
    for density, (run,) in zip((0.1, 0.2, 0.001), runs.values(), strict=True):
        (store.folder(run.fingerprint) / "result.json").write_text(
            json.dumps({"training": {}, "module": {"density": density}})
        )
    scores = {"lt_sft density=0.1": [50.0, 52.0], "lt_sft density=0.2": [60.0], "bitfit": [40.0]}
    picture = save_figure(FigureConfig("sizes", "accuracy"), runs, store, _grid("sizes", names, scores))
    found = _numbers(store, "sizes")
    assert found == {
        "LT-SFT": [[10.0, 51.0, 2**0.5, None], [20.0, 60.0, None, None]],
        "BitFit": [[0.1, 40.0, None, None]],
    }
    _is_a_picture(picture)


def test_settings_are_a_line_a_system_over_the_searched_number_and_a_panel_a_group(
    finished: Callable[..., Run], store: RunStore
) -> None:
    labels = (("ft", "MAD-G-ft"), ("rand", "rand-ft"))
    names = {f"{name} cap_words={n}": f"{label} cap_words={n}" for name, label in labels for n in (3000, 1000)}
    runs = {label: [finished(seed, ([0], [0]))] for seed, label in enumerate(names.values())}
    scores = dict(zip(names, ([70.0, 72.0], [50.0], [60.0], [40.0]), strict=True))
    figure = FigureConfig("settings", "accuracy")
    picture = save_figure(figure, runs, store, _grid("ft", names, scores))
    lines = {
        "MAD-G-ft": [[1000.0, 50.0, None, None], [3000.0, 71.0, 2**0.5, None]],
        "rand-ft": [[1000.0, 40.0, None, None], [3000.0, 60.0, None, None]],
    }
    assert _numbers(store, "ft") == {"key": "cap_words", "panels": {"avg": lines}}
    _is_a_picture(picture)
    whole = _grid("groups", names, scores)
    cells = {name: {**row, "seen": row["avg"], "unseen": Cell()} for name, row in whole.cells.items()}
    config = dataclasses.replace(whole.config, groups={"seen": ["eng"], "unseen": ["fao"]})
    save_figure(figure, runs, store, dataclasses.replace(whole, config=config, cells=cells))
    assert _numbers(store, "groups")["panels"] == {"seen": lines}
    with pytest.raises(UsageError, match="system bitfit"):
        save_figure(figure, {"BitFit": runs["rand-ft cap_words=1000"]}, store, _grid("x", {"bitfit": "BitFit"}, {}))


def test_importance_sorts_features_by_their_columns_of_wv(finished: Callable[..., Run], store: RunStore) -> None:
    network = AdapterGenerator(3, 2, 2, 1, 1, None)
    with torch.no_grad():
        network.embed.copy_(torch.tensor([[1.0, 3.0, 2.0]]))
        network.weight.copy_(torch.tensor([[1.0], [0], [0], [0], [0], [0], [0], [2.0]]))
    header = ModuleHeader(kind="generator", method="mad_g", base_model="b", base_hash="h")
    sites = {"one": "norm", "two": "norm"}
    module = Generator(header, network, sites, "relu", ["S_A", "S_B", "S_C"], ["eng"], torch.ones(1, 3))
    run = finished(1, ([0], [0]))
    module.header = dataclasses.replace(header, fingerprint=run.fingerprint)
    module.save(store.module_file(run.fingerprint))
    picture = save_figure(FigureConfig("importance", None), {"MAD-G": [run]}, store, _grid("w", {"g": "MAD-G"}, {}))
    assert _numbers(store, "w") == {
        "MAD-G": {"features": ["S_B", "S_C", "S_A"], "blocks": [[3.0, 2.0, 1.0], [6.0, 4.0, 2.0]]}
    }
    _is_a_picture(picture)


def _cost(grid: Grid, system: str, *costs: tuple[float, float]) -> None:
    """Gives a system's cell the operations and parameters of its evaluations, one for each seed."""
    grid.cells[system]["fao"] = Cell(costs=[{"flops": flops, "parameters": size} for flops, size in costs])


def test_trade_off_puts_scores_over_operations_and_keeps_parameters(
    finished: Callable[..., Run], store: RunStore
) -> None:
    runs = {"LtSft": [finished(1, ([0], [0]))], "BiStil": [finished(2, ([0], [0])), finished(3, ([1], [1]))]}
    grid = _grid("cost", {"lt_sft": "LtSft", "tf": "BiStil"}, {"lt_sft": [60.0], "tf": [50.0, 52.0]})
    _cost(grid, "lt_sft", (8e6, 3e7))
    _cost(grid, "tf", (4e6, 3e7), (4e6, 4e7))
    _is_a_picture(save_figure(FigureConfig("trade_off", None), runs, store, grid))
    found = _numbers(store, "cost")
    expected = {"score": 60.0, "spread": None, "flops": 8e6, "parameters": 3e7, "published": None, "whole": False}
    assert found["LtSft"] == expected
    expected |= {"score": 51.0, "spread": pytest.approx(2**0.5), "flops": 4e6, "parameters": 3.5e7}
    assert found["BiStil"] == expected


@pytest.fixture
def costly(finished: Callable[..., Run], store: RunStore) -> Callable[..., tuple[dict[str, list[Run]], Grid]]:
    """`costly(LtSft=8, ...)`: runs of millions of operations, and parameters, and their table with published ones."""

    def make(**flops: float) -> tuple[dict[str, list[Run]], Grid]:
        runs = {label: [finished(seed, ([0], [0]))] for seed, label in enumerate(flops, 1)}
        systems = {"st": "BiStil", "lt_sft": "LtSft", "large": "Large"}
        scores = {name: [60.0] if label in flops else [] for name, label in systems.items()}
        grid = _grid("cost", systems, scores)
        facts = {"st": {"flops": 0.61}, "lt_sft": {"flops": 1.0}}
        reference = {"st": {"avg": 41.0}, "lt_sft": {"avg": 43.8}}
        grid = dataclasses.replace(grid, config=dataclasses.replace(grid.config, facts=facts, reference=reference))
        for name, label in systems.items():
            _cost(grid, name, *((flops[label] * 1e6,) * 2 for _ in range(label in flops)))
        grid.cells["lt_sft"]["fao"].reason = None if "LtSft" in flops else "seed 1: killed"
        return runs, grid

    return make


def test_operations_and_discs_are_relative_to_the_system_whose_published_operations_are_1(
    costly: Callable[..., tuple[dict[str, list[Run]], Grid]], store: RunStore
) -> None:
    runs, grid = costly(BiStil=4, LtSft=8, Large=16)
    figure = Figure()
    numbers = trade_off.gather(FigureConfig("trade_off", None), runs, store, grid)
    trade_off.draw(FigureConfig("trade_off", None), numbers, figure, SeriesStyles())
    (axes,) = figure.axes
    drawn = [disc for disc in axes.collections if isinstance(disc, PathCollection)]
    discs = {float(disc.get_offsets()[0][0]): float(disc.get_sizes()[0]) for disc in drawn}
    assert {at: area / discs[1.0] for at, area in discs.items()} == {0.5: 0.5, 1.0: 1.0, 2.0: 2.0}
    assert axes.get_xlabel() == "operations an example, relative to LtSft"
    assert axes.get_xlim()[1] > 2.0


def test_a_trade_off_without_the_system_that_all_is_relative_to_says_which_is_missing(
    costly: Callable[..., tuple[dict[str, list[Run]], Grid]], store: RunStore
) -> None:
    runs, grid = costly(BiStil=4)
    said = "table.figure.kind=trade_off: operations are relative to LtSft, which is missing: seed 1: killed"
    with pytest.raises(UsageError, match=f"^{said}$"):
        save_figure(FigureConfig("trade_off", None), runs, store, grid)


def test_a_trade_off_with_no_published_operations_shows_their_number(
    costly: Callable[..., tuple[dict[str, list[Run]], Grid]], store: RunStore
) -> None:
    runs, grid = costly(BiStil=4)
    grid = dataclasses.replace(grid, config=dataclasses.replace(grid.config, facts={}))
    figure = Figure()
    numbers = trade_off.gather(FigureConfig("trade_off", None), runs, store, grid)
    trade_off.draw(FigureConfig("trade_off", None), numbers, figure, SeriesStyles())
    (axes,) = figure.axes
    assert axes.get_xlabel() == "operations an example" and axes.get_xlim()[1] > 4e6


def test_a_trade_off_of_evaluations_without_costs_is_refused(finished: Callable[..., Run], store: RunStore) -> None:
    run = finished(1, ([0], [0]))
    grid = _grid("cost", {"lt_sft": "LtSft"}, {"lt_sft": [60.0]})
    _cost(grid, "lt_sft")
    with pytest.raises(UsageError, match="the evaluations of LtSft do not say what an example costs"):
        save_figure(FigureConfig("trade_off", None), {"LtSft": [run]}, store, grid)


def test_the_runs_behind_a_figure_are_kept_with_it(finished: Callable[..., Run], store: RunStore) -> None:
    runs = [finished(1, ([0], [0]), {"0": 2})]
    save_figure(FigureConfig("ages", None), {"SpIEL-AG": runs}, store, _grid("ages"))
    record = json.loads((store.root / "tables" / "ages.figure.json").read_text())
    assert record["runs"] == {"SpIEL-AG": [runs[0].fingerprint]}


def test_without_a_finished_run_there_is_no_figure(
    planned: Callable[..., Run], words: tuple[str, ...], store: RunStore
) -> None:
    assert save_figure(FigureConfig("ages", None), {"x": [planned(*words)]}, store, _grid("ages")) is None
    assert not (store.root / "tables").exists()


@pytest.mark.parametrize(
    ("kind", "metric", "said"),
    [
        ("overlap", None, r"seeds: the overlap of BitFit takes two finished runs at least; give seeds=\[1,2,3\]"),
        ("ages", None, "table.figure.kind=ages: BitFit has no entries that grow"),
        ("curves", "loss", "table.figure.metric=loss: the runs of BitFit have no validation of that"),
    ],
)
def test_runs_with_nothing_to_show_are_refused(
    kind: str, metric: str | None, said: str, finished: Callable[..., Run], store: RunStore
) -> None:
    run = finished(1, ([0], [0]))
    _records(store, run, [])
    with pytest.raises(UsageError, match=said):
        save_figure(FigureConfig(kind, metric), {"BitFit": [run]}, store, _grid("f"))


def test_an_unknown_kind_names_those_there_are() -> None:
    (line,) = faults(FigureConfig("pie", None), "table.figure")
    known = "ages, curves, densities, gains, importance, languages, overlap, resources, search, settings, shots, "
    known += "sizes, speed, trade_off"
    assert line == f"table.figure.kind=pie: no such figure; there are {known}"


def _is_a_picture(path: Path | None) -> None:
    from PIL import Image

    assert path is not None
    with Image.open(path) as image:
        assert len(set(image.convert("RGB").resize((64, 64)).get_flattened_data())) > 10  # not a blank page
    assert path.with_suffix(".pdf").read_bytes().startswith(b"%PDF")
    assert "</svg>" in path.with_suffix(".svg").read_text()
