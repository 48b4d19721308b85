"""The files of conf/table, conf/system and conf/published: every row composes, every published number has its place."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shlex
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import xlt
from xlt.compose import (
    checked,
    compose,
    compose_generator_run,
    compose_language_run,
    compose_model_run,
    compose_start_run,
    compose_student_run,
    strangers,
)
from xlt.compose.renamed import RENAMED_TABLES
from xlt.errors import UsageError
from xlt.plan.planner import Plan
from xlt.plan.store import RunStore
from xlt.tables.catalogue import catalogue, find_table
from xlt.tables.columns import list_columns, run_words
from xlt.tables.config import AVERAGE
from xlt.tables.request import TableRequest, request_table
from xlt.tables.resolving import published_numbers

CONF = Path(xlt.__file__).parent.parent / "conf"
ABOUT_DATA = re.compile(r"[+~]?(source@)?data[.=]")
ABOUT_CHILDREN = re.compile(r"[+~]?(experiment|model|method|language_modules|start|recipe|target)[.=@]")
SMALL_MIX = ["data=empty", "+source@data.sources.ind=nusax_senti", "data.sources.ind.language=ind"]
MEASURED = ["student_sizes", "student_speed", "instruct_costs"]
# Published rows that no table shows: (file of conf/published, heading, rows).
NOT_SHOWN = [
    # Models of another group (§7.4), which the table's note names.
    ("thesis_7_2", "Tulu v2", "full_13b"),
    # The densities that are shown for LAS are the best for UAS (Table 4.2), and those of the mixes are of POS and UAS.
    ("thesis_B_2", "LAS", "lt_sft density=0.08", "random_sft density=0.08", "mad_x reduction_factor=1"),
    ("thesis_3_2", "LAS", "mad_g data=ud_1_{scale}", "mad_g data=ud_20_{scale}"),
    # The numbers of POS once more under the heading of the embedded corpus, whose table has fewer systems.
    ("thesis_3_2", "fields", "full", "xlm_r", "mad_g data=ud_1_{scale}", "mad_g data=ud_20_{scale}"),
    ("thesis_3_2", "fields", "mad_g_multi", "mad_g_ls_multi", "mad_g_en_multi", "mad_g_ta_multi", "mad_x_multi"),
    ("thesis_3_2", "fields", "full_multi", "xlm_r_multi"),
    ("thesis_3_4", "genus", "full", "xlm_r"),
]
FILES = sorted(file.stem for file in (CONF / "table").glob("*.yaml"))
THESIS_TABLES = (
    *("3.2", "3.3", "3.4", "4.2", "4.3", "4.4", "4.5", "5.2", "5.3", "5.4", "5.5", "5.6", "5.7", "6.2", "6.3", "6.4"),
    *("7.1", "7.2", "7.3", "7.4", "A.3", "A.4", "A.5", "A.6", "B.2", "C.2", "C.3", "D.3", "D.4", "E.1"),
)
THESIS_FIGURES = ("3.2", "3.3", "4.2", "4.3", "4.4", "5.1", "6.1", "6.2", "6.3", "7.3", "7.4", "B.1", "E.1", "E.2")


@functools.cache
def requested(file: str, scale: str) -> TableRequest | None:
    """A table at a scale; None for one that this scale does not have."""
    try:
        return request_table([f"table={file}", f"scale={scale}"])
    except UsageError as error:
        assert "nothing to show" in str(error) or "measured" in str(error)
        return None


@pytest.mark.slow
@pytest.mark.parametrize("scale", ["mini", "thesis"])
@pytest.mark.parametrize("file", FILES)
def test_every_row_composes_and_evaluates_the_columns_of_its_table(
    file: str, scale: str, tmp_path: Path, tiny_bert: Path
) -> None:
    compose_rows(file, scale, tmp_path, tiny_bert)


@pytest.mark.parametrize("file", ["quickstart", "transfer", "instruct"])
def test_the_rows_of_the_first_tables_compose(file: str, tmp_path: Path, tiny_bert: Path) -> None:
    compose_rows(file, "mini", tmp_path, tiny_bert)


def compose_rows(file: str, scale: str, tmp_path: Path, tiny_bert: Path) -> None:
    """Composes every row of a table."""
    request = requested(file, scale)
    mixes = set()
    for place in ("sib200/eng_Latn", "sib200/ace_Arab", "mono/en.txt"):  # what a table of all languages finds
        (tmp_path / place).mkdir(parents=True)
    for grid in request.grids.values() if request is not None else ():
        grid = list_columns(grid, [f"scale={scale}", f"data_dir={tmp_path}"])
        column = grid.sources[0] if grid.sources else None
        for system in grid.systems.values():
            own = scale == "thesis" or str(system.experiment).startswith(("nano", "translation"))
            where = [f"scale={scale}", f"data_dir={tmp_path}", *([] if own else [f"model.path={tiny_bert}"])]
            words = run_words(grid, system, where, column)
            # The first system with a mix composes it; others with the same mix take a small one, ten times as fast.
            mix = (system.experiment, *(word for word in words if ABOUT_DATA.match(word)))
            is_known = mix in mixes and not any(word.startswith("language=") for word in words)
            if is_known:
                words = [words[0], *SMALL_MIX, *(word for word in words[1:] if not ABOUT_DATA.match(word))]
            composed = compose(words)
            for module in composed.language_modules.paths.values():  # AdapterHub's, which only the user has
                Path(module).parent.mkdir(parents=True, exist_ok=True)
                Path(module).touch()
            run = checked(composed)
            if is_known:
                continue
            mixes.add(mix)
            # A run with the data of one column is evaluated on this one.
            of_column = any(word.startswith("data=") and "{column}" in word for word in system.overrides)
            sources = grid.sources[:1] if of_column else grid.sources
            assert set(sources) <= {*run.data.evaluation, *run.data.benchmarks}
            if system.experiment not in ("instruct", "translation") and not of_column:  # whose columns are tasks
                for evaluated in sources:
                    source = run.data.evaluation[evaluated]
                    languages = (source.language, source.translation and source.translation.source_language)
                    of_task = evaluated.removeprefix(f"{source.features.get('task')}_").removeprefix("dev_")
                    assert of_task in languages or evaluated in ("source", "ajp", source.features.get("task"))


@pytest.mark.slow
@pytest.mark.parametrize("scale", ["mini", "thesis"])
def test_the_runs_that_rows_stand_on_compose(scale: str) -> None:
    """The overrides of students, language runs, generators and starts stand in strings, which no schema checks."""
    known: set[str] = set()
    for file in FILES:
        request = requested(file, scale)
        for grid in request.grids.values() if request is not None else ():
            for system in grid.systems.values():
                words = run_words(grid, system, [], grid.sources[0] if grid.sources else None)
                choices = " ".join(word for word in words if ABOUT_CHILDREN.match(word))
                if choices not in known:
                    known.add(choices)
                    others = [word for word in words[1:] if not ABOUT_DATA.match(word)]
                    for child in children(compose([words[0], *SMALL_MIX, *others])):
                        assert list(strangers(child)) == [], words
    assert len(known) > 20


def children(parent: Any) -> Iterator[Any]:
    """Composes the runs that a run stands on."""
    if parent.language_modules.experiment is not None:
        yield compose_language_run(parent, "fao")
    if parent.language_modules.generator is not None:
        yield compose_generator_run(parent)
    if parent.start.run is not None:
        yield compose_start_run(parent)
    if parent.model.run is not None:
        yield compose_model_run(parent, parent.model.run)
    if parent.model.student is not None and parent.model.student.run is not None:
        student = compose_student_run(parent, parent.model.student.run)
        yield student
        yield from children(student)


@pytest.mark.slow
@pytest.mark.real
@pytest.mark.parametrize("file", FILES)
def test_every_small_table_is_planned_on_the_real_data(file: str, tmp_path: Path) -> None:
    path, data = os.environ.get("XLT_MODEL_PATH"), os.environ.get("XLT_DATA_DIR")
    if path is None or data is None:
        pytest.skip("XLT_MODEL_PATH or XLT_DATA_DIR is not set")
    request = requested(file, "mini")
    if request is None:
        return
    experiments = {str(system.experiment) for grid in request.grids.values() for system in grid.systems.values()}
    if "instruct" in experiments or file == "adapter_hub":
        pytest.skip("needs a decoder, or modules of AdapterHub, which only the user has")
    own_model = all(name.startswith(("nano", "translation")) for name in experiments)
    words = [f"table={file}", f"data_dir={data}", f"output_dir={tmp_path}"]
    request = request_table([*words, *([] if own_model else [f"model.path={path}"])])
    assert request.tables(Plan(RunStore(tmp_path)))[1] == []


@pytest.mark.parametrize("number", THESIS_TABLES)
def test_every_table_of_results_in_the_thesis_is_found_by_its_number(number: str) -> None:
    assert find_table(number).published in (f"Table {number}", f"Figure {number}")


@pytest.mark.parametrize("scale", ["mini", "thesis"])
@pytest.mark.parametrize("number", THESIS_FIGURES)
def test_every_figure_of_results_in_the_thesis_has_a_picture(number: str, scale: str) -> None:
    assert find_table(number, "figure") == find_table(f"figure_{number.replace('.', '_')}")
    request = request_table([f"figure={number}", f"scale={scale}"], "figure")
    assert request.figures.keys() == request.grids.keys()


def test_a_published_table_has_one_file() -> None:
    named = [published for entry in catalogue() for published in entry.stands_for]
    assert len(set(named)) == len(named)
    assert {entry.name for entry in catalogue()} == set(FILES)


@pytest.mark.parametrize("file", MEASURED)
def test_a_measured_table_names_its_script(file: str) -> None:
    with pytest.raises(UsageError) as raised:
        request_table([f"table={file}"])
    (script,) = re.findall(r"scripts/\w+\.py", str(raised.value))
    assert (CONF.parent / script).is_file()


# Rows whose printed average is not that of their printed numbers; the tables say so in their notes.
CONTRADICTIONS = {
    "flix_joint": {
        (heading, system)
        for heading in ("QA, unseen combinations", "QA, unseen languages")
        for system in ("compute_matched", "param_matched")
    }
}


@pytest.mark.parametrize("file", sorted(file.stem for file in (CONF / "published").glob("*.yaml")))
def test_printed_averages_are_those_of_the_printed_numbers(file: str) -> None:
    published = published_numbers(file)
    assert published.name
    wrong = set()
    for heading, systems in published.numbers.items():
        for system, numbers in systems.items():
            over = published.over.get(heading) or [column for column in numbers if column != AVERAGE]
            if AVERAGE in numbers and over and all(column in numbers for column in over):
                mean = statistics.fmean(numbers[column] for column in over)
                if abs(mean - numbers[AVERAGE]) > 0.11:
                    wrong.add((heading, system))
    assert wrong == CONTRADICTIONS.get(file, set())


def test_every_published_row_is_a_row_of_a_table() -> None:
    """A row of conf/published whose system or setting is misspelt would silently have no place."""
    placed: set[tuple[str, str, str]] = set()
    shown = dict.fromkeys(["mini", "thesis"], 0)
    for scale in shown:
        for request in filter(None, (requested(file, scale) for file in FILES)):
            for part in request.config.table.parts.values():
                for heading in part.metrics.keys() & request.grids.keys() if part.published is not None else ():
                    reference = request.grids[heading].reference
                    for row in published_numbers(part.published).numbers.get(heading, {}):
                        filled = row.replace("{scale}", scale).replace("{experiment}", part.experiment)
                        for name, entry in part.systems.items():
                            if name + filled.removeprefix(entry.published or name) in reference:
                                placed.add((part.published, heading, row))
            for grid in request.grids.values():
                assert set(grid.reference) <= set(grid.systems)
                shown[scale] += sum(map(len, grid.reference.values()))
    assert shown["mini"] > 500
    assert shown["thesis"] > 1500
    published = {
        (file.stem, heading, row)
        for file in (CONF / "published").glob("*.yaml")
        for heading, rows in published_numbers(file.stem).numbers.items()
        for row in rows
        if heading != "measured"  # by a script
    }
    assert published - placed == {(file, heading, row) for file, heading, *rows in NOT_SHOWN for row in rows}


def test_some_published_numbers_as_the_thesis_has_them() -> None:
    # Table D.3b, Madurese; Table 6.2b for FS + TTRAIN-ALL; Table B.2a, Faroese.
    ablations = request_table(["table=6.3", "scale=mini"]).grids["SA"].reference
    systems = ("ttrain_all", "ttrain_all_la", "adapter_ttrain_all", "adapter_ttrain_all_la")
    assert [ablations[system]["mad"] for system in systems] == [81.6, 79.7, 78.8, 77.8]
    assert request_table(["table=6.2"]).grids["SA"].reference["fs_ttrain_all"]["mad"] == 81.0
    assert request_table(["table=B.2a"]).grids["POS"].reference["lt_sft"]["fao"] == 87.9


@pytest.mark.parametrize(("old", "new"), sorted(RENAMED_TABLES.items()))
def test_every_old_name_of_a_table_leads_to_one_that_is_there(old: str, new: str) -> None:
    word = new.partition("=")[0]
    with contextlib.suppress(UsageError):
        find_table(old, word)  # a number, which is still a name
        return
    with pytest.raises(UsageError) as raised:
        find_table(old)
    assert new in str(raised.value)
    words = shlex.split(new)
    named = next(part.partition("=")[2] for part in words if part.startswith(f"{word}="))
    if find_table(named, word).file not in MEASURED:
        assert request_table(words, word).grids


def test_no_target_language_of_the_quickstart_is_one_that_its_encoder_has_seen() -> None:
    seen = {source.language for source in compose(["experiment=nano_pretrain"]).data.sources.values()}
    grid = request_table(["table=quickstart"]).grids["fields"]
    assert len(seen) >= 25
    assert len(grid.average) >= 8
    assert not seen & set(grid.average)
