"""From the words of a command to a table's grids at a scale, with systems and published numbers looked up."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from xlt.errors import UsageError
from xlt.tables.catalogue import catalogue, find_table
from xlt.tables.config import AVERAGE
from xlt.tables.request import request_table

pytestmark = pytest.mark.usefixtures("tables_ready")


def test_a_table_is_found_by_its_file_and_by_the_numbers_it_stands_for() -> None:
    assert (find_table("small").file, find_table("small").published) == ("small", None)
    for name, published in {
        "9.1": "Table 9.1",
        "9.2": "Table 9.2",
        "figure_9.1": "Figure 9.1",
        "figure_9_1": "Figure 9.1",
        "Figure 9.1": "Figure 9.1",
        "table_9_2": "Table 9.2",
    }.items():
        assert (find_table(name).file, find_table(name).published) == ("small", published)
    assert find_table("9.1", "figure").published == "Figure 9.1"


@pytest.mark.parametrize(
    ("name", "word", "near"), [("smal", "table", "small"), ("9.4", "table", "9."), ("9.2", "figure", "9.1")]
)
def test_an_unknown_name_is_answered_in_one_line_with_near_ones(name: str, word: str, near: str) -> None:
    with pytest.raises(UsageError) as raised:
        find_table(name, word)
    (line,) = raised.value.lines
    assert line.startswith(f"{word}={name}: ") and near in line and len(line) < 160


def test_the_catalogue_has_titles_numbers_and_pictures_of_every_file() -> None:
    entries = {entry.name: entry for entry in catalogue()}
    assert entries["small"].title == "A small table"
    assert entries["small"].stands_for == ("Table 9.1", "Table 9.2", "Figure 9.1")
    assert entries["small"].has_figure and not entries["measured"].has_figure


def test_each_metric_of_a_part_is_a_grid_of_the_same_runs() -> None:
    grids = request_table(["table=small", "scale=thesis"]).grids
    assert {heading: grid.metric for heading, grid in grids.items()} == {"POS": "accuracy", "UAS": "uas", "LAS": "las"}
    assert grids["UAS"].columns == grids["LAS"].columns == ["fao", "hsb", "yor"]
    assert grids["UAS"].systems["plain"].overrides == ["method=bitfit", "data=nano_fields_thesis", "seed=7"]
    assert grids["LAS"].systems["plain"].overrides == ["method=bitfit", "data=nano_fields_thesis"]
    assert grids["UAS"].overrides == ["data=mix_thesis"]


def test_a_scale_lays_what_it_has_otherwise_over_the_rest() -> None:
    mini, thesis = (request_table(["table=small", f"scale={scale}"]).grids for scale in ("mini", "thesis"))
    assert mini["UAS"].columns == ["fao"] and thesis["UAS"].columns == ["fao", "hsb", "yor"]
    assert mini["UAS"].note == "" and thesis["UAS"].note == "Asked for with scale=thesis\nat full size"
    assert mini["POS"].columns == thesis["POS"].columns == ["fao", "hsb"]


def test_an_entry_may_name_another_system_and_change_it() -> None:
    systems = request_table(["table=small"]).grids["POS"].systems
    assert [(name, system.label, system.composition) for name, system in systems.items()] == [
        ("plain", "Plain", "task+language"),
        ("alone", "Alone", "task"),
    ]


def test_the_printed_average_stands_only_beside_an_average_over_the_same_columns() -> None:
    whole = request_table(["table=small", "scale=thesis"]).grids
    assert whole["POS"].reference["plain"] == {"fao": 50.0, "hsb": 40.0, AVERAGE: 45.0}
    assert whole["POS"].reference_name == "the paper"
    part = request_table(["table=small", "table.columns=[fao]", "scale=thesis"]).grids
    # The mean of the columns shown: UAS of Faroese alone is 30.
    assert part["UAS"].reference["plain"] == {"fao": 30.0, AVERAGE: 30.0}
    assert "averages over the columns shown" in part["UAS"].reference_name
    # LAS was averaged over a column that has no printed number: with it shown, the printed average stands.
    assert whole["LAS"].reference["plain"][AVERAGE] == 99.0
    assert part["LAS"].reference["plain"][AVERAGE] == 3.0


def test_published_rows_of_a_search_stand_beside_their_settings_at_each_scale() -> None:
    for scale in ("mini", "thesis"):
        grid = request_table(["table=searched", f"scale={scale}"]).grids["score"]
        assert list(grid.systems) == [f"plain data=mix_1_{scale}", f"plain data=mix_2_{scale}"]
        assert grid.reference == {f"plain data=mix_1_{scale}": {"fao": 1.0, AVERAGE: 1.0}}


def test_a_published_table_shows_its_own_headings_and_averages_only_if_it_is_one_of_averages() -> None:
    averages = request_table(["table=9.1"])
    assert list(averages.grids) == ["POS", "UAS", "LAS"] and averages.has_averages
    parsing = request_table(["table=9.2"])
    assert list(parsing.grids) == ["UAS", "LAS"] and not parsing.has_averages
    assert request_table(["table=small"]).has_averages
    assert set(request_table(["figure=9.1"], "figure").figures) == {"POS", "UAS", "LAS"}


def test_where_things_lie_and_how_runs_are_done_does_not_change_a_tables_name() -> None:
    neutral = ["data_dir=x", "threads=1", "launcher=parallel", "tracker=silent", "seeds=[1,2]", "scale=mini"]
    assert request_table(["table=small", *neutral]).name == "small"
    assert request_table(["table=9.1"]).grid_name("UAS") == "small_UAS"


def test_tables_of_two_encoders_or_of_two_scales_do_not_replace_each_other_and_say_what_they_are_of() -> None:
    asked = [["model.path=a"], ["model.path=b"], ["model.path=a", "model.revision=c"], ["scale=thesis"], []]
    requests = [request_table(["table=small", *words]) for words in asked]
    assert len({request.name for request in requests}) == len(requests)
    for words, request in zip(asked, requests, strict=True):
        told = f"Asked for with {' '.join(words)}" if words else ""
        assert request.note.startswith(told) and all(grid.note.startswith(told) for grid in request.grids.values())


def test_a_note_has_the_name_of_a_models_folder_and_not_where_it_lies() -> None:
    for path, shown in (("/home/me/models/small", "small"), ("../small", "small"), ("org/small", "org/small")):
        assert request_table(["table=small", f"model.path={path}"]).note == f"Asked for with model.path={shown}"
    assert (
        request_table(["table=small", "model.path=/a/b/c"]).name
        != request_table(["table=small", "model.path=/b/c"]).name
    )


def test_a_picture_is_named_as_it_was_asked_for_and_one_of_a_changed_table_otherwise() -> None:
    assert request_table(["figure=small"], "figure").picture_name == "small"
    assert request_table(["figure=9.1"], "figure").picture_name == "figure_9_1"
    changes = ("method=full", "+task.dropout=0")
    changed = [request_table(["figure=9.1", word], "figure").picture_name for word in changes]
    assert len({*changed}) == 2 and all(name.startswith("figure_9_1-") for name in changed)


@pytest.mark.parametrize(
    "word", ["train.max_steps=3", "+language_modules.stand_in.fao=isl", "table.columns=[fao]", "method=full"]
)
def test_what_is_asked_differently_is_another_table_that_says_so(word: str) -> None:
    request = request_table(["table=small", word])
    assert request.name.startswith("small-") and request.name != request_table(["table=small", "target=isl"]).name
    assert word in request.grids["POS"].note and word in request.note  # the latter of the grid of averages


def test_rows_and_headings_can_be_chosen_without_touching_what_is_published() -> None:
    request = request_table(["table=small", "table.rows=[plain]", "table.headings=[POS]"])
    assert list(request.grids) == ["POS"] and list(request.grids["POS"].systems) == ["plain"]
    removed = request_table(["table=small", "~table.parts.POS.systems.plain"])
    assert list(removed.grids["POS"].systems) == ["alone"] and removed.grids["POS"].reference == {}


@pytest.mark.parametrize(
    ("words", "facts"),
    [
        (["table=small", "table.colums=[fao]"], ["table.colums=[fao]", "columns"]),
        (["table=small", "table.columns=[deu]"], ["table.columns", "deu", "fao"]),
        (["table=small", "table.rows=[x]"], ["table.rows", "x", "plain"]),
        (["table=small", "table.headings=[NER]"], ["table.headings", "NER", "POS"]),
        (["table=measured"], ["table=measured", "scripts/bench.py"]),
        (["table=9.3"], ["table=9.3", "scripts/bench.py"]),
        (["table=small", "table=9.2"], ["table=small table=9.2", "one"]),
        (["table=small", "seeds=[]"], ["seeds=[]"]),
        (["table=small", "seeds"], ["seeds", "KEY=VALUE"]),
        (["seeds=[1]"], ["table", "4.2"]),
    ],
)
def test_wrong_words_are_refused_with_the_key_and_what_is_there(words: list[str], facts: list[str]) -> None:
    with pytest.raises(UsageError) as raised:
        request_table(words)
    (line,) = raised.value.lines
    assert all(fact in line for fact in facts), line


@pytest.mark.parametrize(
    ("file", "text", "facts"),
    [
        ("system/plain.yaml", "label: x\nfoo: 1\n", ["conf/system/plain", "foo"]),
        ("system/plain.yaml", "overrides: []\n", ["conf/system/plain", "label"]),
        ("published/paper.yaml", "name: x\nnumbers: {POS: {plain: {fao: high}}}\n", ["conf/published/paper", "high"]),
    ],
)
def test_faulty_files_are_named(
    tables_ready: Callable[[str, str], None], file: str, text: str, facts: list[str]
) -> None:
    tables_ready(file, text)
    with pytest.raises(UsageError) as raised:
        request_table(["table=small"])
    assert all(fact in str(raised.value) for fact in facts), raised.value


def test_a_part_that_a_scale_lacks_is_left_out_and_if_nothing_remains_the_reason_is_given(
    tables_ready: Callable[[str, str], None],
) -> None:
    tables_ready(
        "table/measured.yaml",
        "title: x\nparts: {POS: {experiment: nano_fields, metrics: {POS: accuracy}}}\n"
        "mini: {without: {POS: no such data}}\n",
    )
    with pytest.raises(UsageError, match="no such data"):
        request_table(["table=measured", "scale=mini"])
    assert list(request_table(["table=measured", "scale=thesis"]).grids) == ["POS"]
