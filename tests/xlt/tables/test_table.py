from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from tests.xlt.tables.conftest import BARE, EXPERIMENT
from xlt.errors import UsageError
from xlt.plan.planner import Plan
from xlt.plan.store import RunStore
from xlt.tables.config import FigureConfig, PartConfig, SearchConfig, SystemConfig
from xlt.tables.grid import Cell, Grid, averages
from xlt.tables.page.scores import grid_scores
from xlt.tables.table import Table
from xlt.tables.terminal import best_systems, legend, print_plan, print_table, table_markdown


def _score(table: Table, plan: Plan, system: str, seed: int, **scores: float) -> None:
    """Writes evaluation source -> accuracy to the store, as if the system's run had been evaluated."""
    run = table.run(system, seed, "eng")
    plan.store.folder(run.fingerprint).mkdir(parents=True, exist_ok=True)
    records = {
        key: {"metrics": {"accuracy": scores[composition.source]}}
        for key, composition in run.evaluations.items()
        if composition.source in scores
    }
    plan.store.add_evaluations(run.fingerprint, records)


@pytest.fixture
def scored_table(make_table: Callable[..., tuple[Table, Plan]]) -> tuple[Table, Plan]:
    """The table, with scores of full FT for both seeds."""
    table, plan = make_table()
    _score(table, plan, "full", 1, eng=90.0, fao=50.0)
    _score(table, plan, "full", 2, eng=94.0, fao=54.0)
    return table, plan


def test_a_cell_is_the_mean_and_spread_over_seeds_of_finished_evaluations(scored_table: tuple[Table, Plan]) -> None:
    table, plan = scored_table
    grid = table.grid(plan.store, {}).cells
    assert grid["full"]["eng"].values == [90.0, 94.0]
    assert grid["full"]["eng"].mean == 92.0
    assert grid["full"]["eng"].spread == pytest.approx(8**0.5)  # sample standard deviation of 90 and 94
    assert grid["full"]["avg"].values == [50.0, 54.0]  # English is no target
    assert grid["full"]["fao"].backed_by == [table.run("full", seed, "eng").fingerprint for seed in (1, 2)]
    assert grid["full"]["eng"].reason is None


def test_a_hole_says_why(make_table: Callable[..., tuple[Table, Plan]]) -> None:
    table, plan = make_table()
    _score(table, plan, "full", 1, eng=90.0, fao=50.0)
    broken = table.run("full", 2, "eng").fingerprint
    grid = table.grid(plan.store, {broken: "FloatingPointError: the loss is nan"}).cells
    assert grid["full"]["fao"].values == [50.0] and grid["full"]["fao"].spread is None
    assert grid["full"]["fao"].reason == "seed 2: FloatingPointError: the loss is nan"
    assert grid["bitfit"]["eng"].values == [] and grid["bitfit"]["eng"].reason == "seeds 1, 2: not run"
    assert grid["bitfit"]["avg"].values == []
    broken = table.run("bitfit", 1, "eng").fingerprint
    assert table.grid(plan.store, {broken: "killed"}).cells["bitfit"]["eng"].reason == "seed 1: killed; seed 2: not run"


def test_a_failure_of_an_earlier_sitting_is_the_reason_too(make_table: Callable[..., tuple[Table, Plan]]) -> None:
    table, plan = make_table()
    fingerprint = table.run("bitfit", 2, "eng").fingerprint
    plan.store.folder(fingerprint).mkdir(parents=True)
    plan.store.record_failure(fingerprint, "killed")
    assert table.grid(plan.store, {}).cells["bitfit"]["eng"].reason == "seed 1: not run; seed 2: killed"


def test_a_group_shows_the_mean_of_its_members_and_keeps_them(
    make_table: Callable[..., tuple[Table, Plan]], tmp_path: Path
) -> None:
    groups = {"seen": ["eng"], "all": ["eng", "fao"]}
    table, plan = make_table(columns=["seen", "all"], groups=groups, average=[], reference={"full": {"all": 71.0}})
    _score(table, plan, "full", 1, eng=90.0, fao=50.0)
    _score(table, plan, "full", 2, eng=94.0, fao=56.0)
    _score(table, plan, "bitfit", 1, eng=80.0)
    grid = table.grid(plan.store, {})
    assert grid.columns == ["seen", "all"]
    assert grid.cells["full"]["all"].values == [70.0, 75.0]
    assert grid.cells["full"]["seen"].values == [90.0, 94.0]
    assert grid.cells["bitfit"]["all"].values == [] and grid.cells["bitfit"]["all"].reason == "seeds 1, 2: not run"
    grid.save(table_markdown(grid), tmp_path / "tables")
    saved = json.loads((tmp_path / "tables" / "small.json").read_text())["cells"]
    assert saved["full"]["fao"]["values"] == [50.0, 56.0]
    assert "72.5" in table_markdown(grid) and "fao" not in table_markdown(grid)
    part = PartConfig("pos", {"POS": "accuracy"}, columns=["a"], groups={"b": ["eng"], "a": []})
    assert [line.partition(":")[0] for line in part.faults("part")] == ["part.groups.b", "part.groups.a"]


def test_metric_mean_shows_each_column_by_the_metric_of_its_own_task(
    make_table: Callable[..., tuple[Table, Plan]],
) -> None:
    table, plan = make_table(metric="mean", average=[])
    run = table.run("full", 1, "eng")
    metrics = {"accuracy": 90.0, "f1": 10.0, "mean": 1.0}
    plan.store.folder(run.fingerprint).mkdir(parents=True, exist_ok=True)
    for key, composition in run.evaluations.items():
        own = {"metric": "f1"} if composition.source == "eng" else {}  # of several tasks; a run of one says none
        plan.store.add_evaluations(run.fingerprint, {key: {"metrics": metrics, **own}})
    cells = table.grid(plan.store, {}).cells["full"]
    assert (cells["eng"].values, cells["fao"].values, cells["avg"].values) == ([10.0], [90.0], [50.0])


def test_an_average_needs_all_its_columns(make_table: Callable[..., tuple[Table, Plan]]) -> None:
    table, plan = make_table(average=[])
    _score(table, plan, "full", 1, eng=90.0)
    _score(table, plan, "full", 2, eng=90.0, fao=60.0)
    assert table.grid(plan.store, {}).cells["full"]["avg"].values == [75.0]


def test_markdown_has_means_spreads_references_bold_bests_and_holes(scored_table: tuple[Table, Plan]) -> None:
    table, plan = scored_table
    _score(table, plan, "bitfit", 1, eng=95.0, fao=40.0)
    text = table_markdown(table.grid(plan.store, {}))
    rows = {line.split("|")[1].strip(): line for line in text.splitlines() if line.startswith("|")}
    assert rows[""] == "| | eng | fao | avg |"
    assert rows["full FT"] == "| full FT | 92.0±2.8 | **52.0±2.8 (55.5)** | **52.0±2.8 (50.0)** |"
    assert rows["BitFit"] == "| BitFit | **95.0‡** | 40.0‡ | 40.0‡ |"
    assert "mean ± standard deviation over 2 seeds; avg without eng; in brackets: Table 1; ‡: over fewer seeds" in text
    assert "- BitFit, seed 2: not run" in text
    assert "a note" in text


def test_a_table_fits_a_narrow_terminal_with_every_number_in_it(
    make_table: Callable[..., tuple[Table, Plan]],
) -> None:
    table, plan = make_table()
    for seed in (1, 2):
        _score(table, plan, "full", seed, eng=90.0 + seed, fao=50.0 + seed)
        _score(table, plan, "bitfit", seed, eng=80.0 + seed, fao=40.0 + seed)
    for width in (60, 30):
        out = io.StringIO()
        print_table(table.grid(plan.store, {}), Console(file=out, width=width))
        assert max(map(len, out.getvalue().splitlines())) <= width
        for text in (
            "A table",
            "full FT",
            "BitFit",
            "91.5±0.7",
            "51.5±0.7 (55.5)",
            "81.5±0.7",
            "41.5±0.7",
            "avg",
            "a note",
        ):
            assert text in out.getvalue(), text


def test_the_saved_table_names_the_run_behind_every_value(
    make_table: Callable[..., tuple[Table, Plan]], tmp_path: Path
) -> None:
    table, plan = make_table()
    _score(table, plan, "full", 1, eng=90.0, fao=50.0)
    grid = table.grid(plan.store, {})
    grid.save(table_markdown(grid), tmp_path / "tables")
    saved = json.loads((tmp_path / "tables" / "small.json").read_text(encoding="utf-8"))
    cell = saved["cells"]["full"]["eng"]
    assert cell["values"] == [90.0] and cell["runs"] == [table.run("full", 1, "eng").fingerprint]
    assert saved["cells"]["bitfit"]["eng"] == {
        "mean": None,
        "missing": "seeds 1, 2: not run",
        "runs": [],
        "spread": None,
        "values": [],
    }
    assert (tmp_path / "tables" / "small.md").read_text(encoding="utf-8").startswith("# A table")
    assert sorted(path.name for path in (tmp_path / "tables").iterdir()) == ["small.json", "small.md"]


def test_a_table_with_fewer_values_never_replaces_one_with_more(
    make_table: Callable[..., tuple[Table, Plan]], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    table, plan = make_table()
    empty = table.grid(plan.store, {})
    _score(table, plan, "full", 1, eng=90.0, fao=50.0)
    half = table.grid(plan.store, {})
    for seed in (1, 2):
        for system in ("full", "bitfit"):
            _score(table, plan, system, seed, eng=91.0, fao=51.0)
    whole = table.grid(plan.store, {})
    folder = tmp_path / "tables"

    def save(grid: Grid) -> tuple[str, dict[str, str]]:
        name = grid.save(table_markdown(grid), folder)
        return name, {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()}

    assert save(empty)[0] == save(half)[0] == "small"
    name, before = save(half)
    assert name == "small" and not half.is_complete and whole.is_complete
    name, files = save(empty)
    assert name == "small.incomplete" and files.items() > before.items()
    name, files = save(whole)
    assert name == "small" and files.keys() == before.keys() and files != before
    name, after = save(half)
    assert name == "small.incomplete" and after.items() > files.items()
    cells = {
        system: {column: dataclasses.replace(cell, values=cell.values[:1]) for column, cell in row.items()}
        for system, row in whole.cells.items()
    }
    one_seed = dataclasses.replace(whole, seeds=[1], cells=cells)
    assert one_seed.is_complete and save(one_seed)[0] == "small.incomplete"
    config = dataclasses.replace(whole.config, systems={"full": whole.config.systems["full"]})
    smaller = dataclasses.replace(whole, config=config, cells={"full": whole.cells["full"]})  # complete, of fewer rows
    assert save(smaller)[0] == "small"
    (folder / "small.json").write_text(after["small.json"].replace("91.0", "99.0"), encoding="utf-8")
    assert save(empty)[0] == "small"
    assert "small.json: its content or its place does not fit its checksum" in capfd.readouterr().err
    assert "99.0" in (folder / "small.json.damaged").read_text(encoding="utf-8")


def test_a_column_that_no_run_evaluates_is_refused(make_table: Callable[..., tuple[Table, Plan]]) -> None:
    with pytest.raises(
        UsageError,
        match=r"columns: deu not in data.evaluation or data.benchmarks of experiment=pos; there are eng, ",
    ):
        make_table(columns=["eng", "deu"])


def test_faults_of_all_systems_are_gathered(make_table: Callable[..., tuple[Table, Plan]]) -> None:
    systems = {
        name: SystemConfig(name, EXPERIMENT, [*BARE, f"method={name}", fault], "task")
        for name, fault in (("full", "seeed=1"), ("bitfit", "train.batch_size=0"))
    }
    with pytest.raises(UsageError) as raised:
        make_table(systems=systems)
    assert [line.partition(":")[0] for line in raised.value.lines] == ["seeed=1", "train.batch_size=0"]


def test_the_plan_shows_what_is_to_be_done_and_how_much_exists(
    make_table: Callable[..., tuple[Table, Plan]],
) -> None:
    table, plan = make_table()
    run = table.run("full", 1, "eng")
    plan.store.folder(run.fingerprint).mkdir(parents=True)
    (plan.store.folder(run.fingerprint) / "result.json").write_text('{"training": {}}', encoding="utf-8")
    _score(table, plan, "full", 1, eng=90.0, fao=50.0)
    out = io.StringIO()
    print_plan(plan, Console(file=out, width=100))
    assert "4 runs: 1 exist, 3 to do" in out.getvalue()
    assert "pos bitfit eng seed=2" in out.getvalue() and "train + evaluate 2" in out.getvalue()
    assert "past runs took" not in out.getvalue()  # there were none


def test_the_plan_shows_how_long_runs_of_the_kind_took(
    make_table: Callable[..., tuple[Table, Plan]], monkeypatch: pytest.MonkeyPatch
) -> None:
    table, plan = make_table()
    monkeypatch.setattr(RunStore, "seconds_of_kinds", lambda self: {table.run("full", 1, "eng").kind: 700.0})
    out = io.StringIO()
    print_plan(plan, Console(file=out, width=100))
    assert "past runs took" in out.getvalue() and out.getvalue().count("12 min") == 2
    assert "past runs of their kinds took 23 min one after the other" in out.getvalue()


def test_a_system_with_a_column_in_its_overrides_has_a_run_for_each_that_is_evaluated_there_alone(
    make_table: Callable[..., tuple[Table, Plan]],
) -> None:
    one_each = ["method=bitfit", "+source@data.excluded.target=ud_{column}"]
    systems = {"single": SystemConfig("FS-SINGLE", EXPERIMENT, [*BARE, *one_each], "task")}
    table, plan = make_table(systems=systems, reference={})
    runs = {(seed, column): table.run("single", seed, column) for seed in (1, 2) for column in ("eng", "fao")}
    assert len({run.fingerprint for run in runs.values()}) == 4
    for (_, column), run in runs.items():
        assert [wanted.source for wanted in run.evaluations.values()] == [column]
        assert run.config.data.excluded["target"].language == column
        plan.store.folder(run.fingerprint).mkdir(parents=True)
        (key,) = run.evaluations
        plan.store.add_evaluations(run.fingerprint, {key: {"metrics": {"accuracy": 10.0 if column == "eng" else 30.0}}})
    row = table.grid(plan.store, {}).cells["single"]
    assert row["eng"].values == [10.0, 10.0] and row["fao"].values == row["avg"].values == [30.0, 30.0]


def test_systems_that_share_a_task_module_each_show_it_with_their_own_language_modules(
    make_table: Callable[..., tuple[Table, Plan]], adapted: tuple[str, ...]
) -> None:
    modules = ["data=empty", "method=bitfit", *(word for word in adapted if word.startswith("language_modules"))]
    others = {"own": [], "english": ["+language_modules.stand_in.targets=eng"]}
    systems = {
        name: SystemConfig(name, EXPERIMENT, [*modules, *more], "task+language") for name, more in others.items()
    }
    table, plan = make_table(systems=systems, reference={}, columns=["fao"], average=[])
    for seed in (1, 2):
        run = table.run("own", seed, "fao")
        assert run is table.run("english", seed, "fao")
        plan.store.folder(run.fingerprint).mkdir(parents=True)
        scores = {"fao": 70.0 + seed, "eng": 40.0 + seed}
        found = {key: scores.get(wanted.modules[0].language or "", 0.0) for key, wanted in run.evaluations.items()}
        plan.store.add_evaluations(run.fingerprint, {key: {"metrics": {"accuracy": v}} for key, v in found.items()})
    grid = table.grid(plan.store, {}).cells
    assert grid["own"]["fao"].values == [71.0, 72.0] and grid["english"]["fao"].values == [41.0, 42.0]


def test_a_table_of_averages_has_the_systems_of_its_parts_and_their_averages(
    make_table: Callable[..., tuple[Table, Plan]],
) -> None:
    table, plan = make_table()
    for seed in (1, 2):
        _score(table, plan, "full", seed, eng=90.0, fao=50.0 + seed)
        _score(table, plan, "bitfit", seed, eng=80.0, fao=40.0)
    whole = table.grid(plan.store, {})
    few = dataclasses.replace(whole, cells={"full": whole.cells["full"]})
    few = dataclasses.replace(
        few, config=dataclasses.replace(few.config, systems={"full": whole.config.systems["full"]})
    )
    grid = averages("all", "A table", "", {"POS": whole, "NER": few})
    assert grid.columns == ["POS", "NER"]
    assert grid.cells["full"]["POS"].values == grid.cells["full"]["NER"].values == [51.0, 52.0]
    assert grid.cells["bitfit"]["NER"].values == []
    text = table_markdown(grid)
    assert "| full FT | **51.5±0.7 (50.0)** | **51.5±0.7 (50.0)** |" in text
    assert "| BitFit | 40.0±0.0 | - |" in text
    assert grid.is_complete and "Holes" not in text


def test_a_table_of_averages_says_which_of_them_are_over_fewer_seeds(
    make_table: Callable[..., tuple[Table, Plan]],
) -> None:
    table, plan = make_table()
    _score(table, plan, "full", 1, eng=90.0, fao=51.0)
    _score(table, plan, "full", 2, eng=90.0, fao=52.0)
    _score(table, plan, "bitfit", 1, fao=40.0)  # the average is over Faroese alone
    _score(table, plan, "bitfit", 2, eng=80.0)
    grid = averages("all", "A table", "", {"POS": table.grid(plan.store, {})})
    assert (grid.cells["bitfit"]["POS"].values, grid.cells["bitfit"]["POS"].reason) == ([40.0], "seed 2: not run")
    assert not grid.is_complete and grid.cells["full"]["POS"].reason is None
    assert "Holes:\n\n- BitFit, seed 2: not run\n" in table_markdown(grid)


def test_a_table_says_over_which_columns_its_average_is(make_table: Callable[..., tuple[Table, Plan]]) -> None:
    table, plan = make_table()
    assert legend(table.grid(plan.store, {})).endswith("over 2 seeds; avg without eng; in brackets: Table 1")
    config = dataclasses.replace(table.config, columns=["a", "b", "c"], average=["b"], reference={})
    grid = Grid("wide", config, [1], {})
    assert legend(grid) == "accuracy; avg over b"
    assert legend(dataclasses.replace(grid, has_average=False)) == "accuracy"
    assert legend(dataclasses.replace(grid, config=dataclasses.replace(config, average=[]))) == "accuracy"


def test_a_search_becomes_a_row_for_every_combination(make_table: Callable[..., tuple[Table, Plan]]) -> None:
    search = SearchConfig({"train.batch_size": ["2", "4"], "train.learning_rate": ["0.1", "0.2"]}, best=None)
    named = {"full batch_size=4 learning_rate=0.1": {"fao": 1.0}}
    table, _ = make_table(searches={"full": search}, reference=named)
    config = table.config.searched()
    assert list(config.systems) == [
        "full batch_size=2 learning_rate=0.1",
        "full batch_size=2 learning_rate=0.2",
        "full batch_size=4 learning_rate=0.1",
        "full batch_size=4 learning_rate=0.2",
        "bitfit",
    ]
    row = config.systems["full batch_size=4 learning_rate=0.1"]
    assert row.overrides == [*table.config.systems["full"].overrides, "train.batch_size=4", "train.learning_rate=0.1"]
    assert row.label == "full FT batch_size=4 learning_rate=0.1"
    assert config.systems["bitfit"] == table.config.systems["bitfit"]
    assert list(SearchConfig({"seed": ["1", "1"]}, None).faults("s")) == [
        "s.over.seed=['1', '1']: must be different values, at least one"
    ]


def test_the_best_setting_of_a_search_is_said_beside_the_published_one(
    make_table: Callable[..., tuple[Table, Plan]],
) -> None:
    search = SearchConfig({"train.learning_rate": ["0.1", "0.2"]}, best="learning_rate=0.1")
    table, _ = make_table()
    config = dataclasses.replace(table.config, searches={"full": search}, reference={}).searched()
    scores = {"full learning_rate=0.1": [50.0], "full learning_rate=0.2": [60.0], "bitfit": [70.0]}
    cells = {name: {column: Cell(list(of)) for column in ("eng", "fao", "avg")} for name, of in scores.items()}
    grid = Grid("search", config, [1], cells)
    text = table_markdown(grid)
    assert "full FT: learning_rate=0.2 is best; Table 1: learning_rate=0.1" in text


@pytest.mark.parametrize(("metric", "best", "shown"), [("accuracy", "0.2", "60.0"), ("loss", "0.1", "50.000")])
def test_the_best_of_a_loss_is_the_smallest(
    make_table: Callable[..., tuple[Table, Plan]], tmp_path: Path, metric: str, best: str, shown: str
) -> None:
    search = SearchConfig({"train.learning_rate": ["0.1", "0.2"]}, best=None)
    table, _ = make_table()
    config = dataclasses.replace(table.config, metric=metric, searches={"full": search}, reference={}).searched()
    scores = {"full learning_rate=0.1": [50.0], "full learning_rate=0.2": [60.0], "bitfit": [55.0]}
    cells = {name: {column: Cell(list(of)) for column in ("eng", "fao", "avg")} for name, of in scores.items()}
    grid = Grid("search", config, [1], cells)
    assert best_systems(grid)["fao"] == {f"full learning_rate={best}"}
    text = table_markdown(grid)
    assert f"learning_rate={best} is best" in text and f"**{shown}**" in text
    assert f'<b class="ours">{shown}</b>' in str(grid_scores(grid, tmp_path / "search.html"))


def test_of_two_of_three_seeds_the_spread_is_marked_in_terminal_markdown_and_page(
    make_table: Callable[..., tuple[Table, Plan]], tmp_path: Path
) -> None:
    table, _ = make_table()
    config = dataclasses.replace(table.config, reference={})
    scores = {"full": [50.0, 54.0], "bitfit": [40.0, 44.0, 48.0]}
    cells = {name: {column: Cell(list(of)) for column in ("eng", "fao", "avg")} for name, of in scores.items()}
    grid = Grid("fewer", config, [1, 2, 3], cells)
    out = io.StringIO()
    print_table(grid, Console(file=out, width=100))
    for text in (table_markdown(grid), out.getvalue()):
        assert "52.0±2.8‡" in text and "44.0±4.0 " in text and "44.0±4.0‡" not in text
        assert "over 3 seeds; avg without eng; ‡: over fewer seeds" in text
    assert '±2.8</span><span title="over 2 of 3 seeds">‡</span>' in str(grid_scores(grid, tmp_path / "fewer.html"))
    cells["full"] = cells["bitfit"]
    assert "‡" not in table_markdown(grid)


def test_a_table_of_averages_shows_each_column_as_its_own_metric_is_shown(
    make_table: Callable[..., tuple[Table, Plan]], tmp_path: Path
) -> None:
    table, _ = make_table()
    config = dataclasses.replace(table.config, reference={})
    cells = {name: {"avg": Cell([of])} for name, of in {"full": 2.25, "bitfit": 2.375}.items()}
    grids = {
        metric: Grid(metric, dataclasses.replace(config, metric=metric), [1], cells) for metric in ("accuracy", "loss")
    }
    grid = averages("all", "A table", "", grids)
    assert best_systems(grid) == {"accuracy": {"bitfit"}, "loss": {"full"}}
    assert "| full FT | 2.2 | **2.250** |" in table_markdown(grid)
    assert '<b class="ours">2.250</b>' in str(grid_scores(grid, tmp_path / "all.html"))


def test_a_grid_without_columns_may_have_a_figure(make_table: Callable[..., tuple[Table, Plan]]) -> None:
    table, _ = make_table(columns=[], average=[], reference={}, figure=FigureConfig("curves", "loss"))
    grid = table.grid(RunStore("nowhere"), {})
    assert grid.columns == []
    assert [run.config.seed for run in table.runs()["BitFit"]] == [1, 2]


def test_a_benchmark_is_a_column_with_a_metric_of_its_own(
    make_table: Callable[..., tuple[Table, Plan]], words: tuple[str, ...]
) -> None:
    own = [word for word in words if not word.startswith(("data_dir", "model.path"))]
    table, plan = make_table(
        columns=["eng", "mmlu"], average=[], reference={}, overrides=[*own, "+benchmark@data.benchmarks.mmlu=mmlu"]
    )
    run = table.run("full", 1, "mmlu")
    assert {wanted.source: wanted.label for wanted in run.evaluations.values()} == {"eng": "task", "mmlu": "task"}
    metrics = {"eng": {"accuracy": 90.0}, "mmlu": {"score": 40.0, "score/mmlu": 40.0}}
    plan.store.folder(run.fingerprint).mkdir(parents=True)
    done = {key: {"metrics": metrics[wanted.source]} for key, wanted in run.evaluations.items()}
    plan.store.add_evaluations(run.fingerprint, done)
    grid = table.grid(plan.store, {}).cells["full"]
    assert [grid[column].values for column in ("eng", "mmlu", "avg")] == [[90.0], [40.0], [65.0]]


def test_a_cell_with_another_languages_module_bears_a_mark_and_the_table_says_whose(
    make_table: Callable[..., tuple[Table, Plan]], adapted: tuple[str, ...]
) -> None:
    modules = ["data=empty", "method=bitfit", *(word for word in adapted if word.startswith("language_modules"))]
    overrides = [*modules, "+language_modules.stand_in.fao=eng"]
    systems = {"bitfit": SystemConfig("BitFit", EXPERIMENT, overrides, "task+language")}
    table, plan = make_table(systems=systems, reference={})
    for seed in (1, 2):
        _score(table, plan, "bitfit", seed, eng=90.0, fao=50.0)
    grid = table.grid(plan.store, {})
    assert grid.cells["bitfit"]["fao"].stand_in == "eng" and grid.cells["bitfit"]["eng"].stand_in is None
    text = table_markdown(grid)
    assert "50.0±0.0†" in text and "90.0±0.0†" not in text
    (line,) = [line for line in text.splitlines() if line.startswith("- †")]
    assert "BitFit" in line and "fao: eng" in line


def test_a_cell_without_a_module_among_those_with_one_bears_a_mark_too(
    make_table: Callable[..., tuple[Table, Plan]], adapted: tuple[str, ...]
) -> None:
    modules = ["data=empty", "method=bitfit", *(word for word in adapted if word.startswith("language_modules"))]
    overrides = [*modules, "+language_modules.stand_in.fao=none"]
    table, plan = make_table(systems={"bitfit": SystemConfig("BitFit", EXPERIMENT, overrides, "task+language")})
    _score(table, plan, "bitfit", 1, eng=90.0, fao=50.0)
    _score(table, plan, "bitfit", 2, eng=90.0, fao=50.0)
    grid = table.grid(plan.store, {})
    assert grid.cells["bitfit"]["fao"].stand_in == "none" and grid.cells["bitfit"]["eng"].stand_in is None
    (line,) = [line for line in table_markdown(grid).splitlines() if line.startswith("- †")]
    assert "or none: fao: none" in line


def test_a_system_that_is_evaluated_alone_asks_for_no_language_module_of_the_targets(
    make_table: Callable[..., tuple[Table, Plan]], adapted: tuple[str, ...]
) -> None:
    modules = ["data=empty", "method=bitfit", *(word for word in adapted if word.startswith("language_modules"))]
    systems = {"ta": SystemConfig("TA-only", EXPERIMENT, modules, "task")}
    table, _ = make_table(systems=systems, reference={})
    evaluations = table.run("ta", 1, "fao").evaluations.values()
    assert {composition.label for composition in evaluations} == {"task"}
    assert not table.run("ta", 1, "fao").evaluation_needs
