"""Tables in terminals of every width, read back from what was printed."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from xlt.tables.blocks import print_blocks

SYSTEMS = ["LT-SFT", "rand-SFT", "MAD-X", "BitFit", "LT-SFT TA-only", "FS + TTRAIN-ALL"]


def printed(width: int, headings: list[str], rows: list[tuple[str, list[str]]]) -> str:
    out = io.StringIO()
    print_blocks(Console(file=out, width=width), headings, [(label, [(t, "") for t in of]) for label, of in rows])
    return out.getvalue()


def blocks_of(text: str) -> list[list[list[str]]]:
    """Blocks, each a list of lines, each a list of what stands between the bars."""
    blocks: list[list[list[str]]] = []
    for line in text.splitlines():
        if line.startswith("┏"):
            blocks.append([])
        elif line.startswith(("┃", "│")):
            blocks[-1].append([part.strip() for part in re.split("[┃│]", line)[1:-1]])
    return blocks


def test_a_table_that_fits_stands_in_one_block() -> None:
    rows = [("LT-SFT", ["70.7±0.8 (68.7)", "-"]), ("BitFit", ["1.0", "2.0"])]
    (block,) = blocks_of(printed(80, ["fao", "avg"], rows))
    assert block == [["", "fao", "avg"], ["LT-SFT", "70.7±0.8 (68.7)", "-"], ["BitFit", "1.0", "2.0"]]


def test_columns_that_do_not_fit_stand_in_blocks_below_each_with_the_labels() -> None:
    cells = [f"{number}0.7±0.8 (68.{number})" for number in range(1, 7)]
    blocks = blocks_of(printed(80, SYSTEMS, [("fao", cells), ("avg", cells)]))
    assert blocks == [
        [["", *SYSTEMS[:4]], ["fao", *cells[:4]], ["avg", *cells[:4]]],
        [["", *SYSTEMS[4:]], ["fao", *cells[4:]], ["avg", *cells[4:]]],
    ]


def test_a_column_that_alone_does_not_fit_is_stacked_with_published_number_and_spread_below_the_mean() -> None:
    rows = [("Adapter", ["70.7±0.8 (68.7)"])]
    (beside,), (below,), (all_apart,) = (blocks_of(printed(width, ["fao"], rows)) for width in (29, 28, 20))
    assert beside == [["", "fao"], ["Adapter", "70.7±0.8 (68.7)"]]
    assert below == [["", "fao"], ["Adapter", "70.7±0.8"], ["", "(68.7)"]]
    assert all_apart == [["", "fao"], ["Adapter", "70.7"], ["", "±0.8"], ["", "(68.7)"]]


def test_long_labels_are_folded_at_spaces_then_after_equals_signs() -> None:
    rows = [("LT-SFT density=0.05 overrides=['train.density=0.3']", ["70.7±0.8"])]
    (wide,), (narrow,) = (blocks_of(printed(width, ["hau"], rows)) for width in (50, 30))
    assert [line[0] for line in wide] == ["", "LT-SFT density=0.05", "overrides=['train.density=0.3']"]
    assert [line[0] for line in narrow] == [
        "", "LT-SFT", "density=0.05", "overrides=", "['train.density=", "0.3']",
    ]  # fmt: skip


def test_a_label_is_broken_before_its_numbers_are_stacked() -> None:
    label = "LT-SFT overrides=['train.density=0.05','train.max_steps=100']"
    (block,) = blocks_of(printed(60, ["hau"], [(label, ["70.7±0.8 (61.5)"])]))
    assert block == [
        ["", "hau"],
        ["LT-SFT overrides=", "70.7±0.8 (61.5)"],
        ["['train.density=0.05',", ""],
        ["'train.max_steps=100']", ""],
    ]


@pytest.mark.parametrize("width", range(17, 130, 7))
@pytest.mark.parametrize("label", ["fao", "Adapter FS + TTRAIN-ALL", "LT-SFT density=0.05 overrides=['x.density=1.0']"])
def test_every_number_is_whole_and_no_line_is_too_long_at_any_width(width: int, label: str) -> None:
    numbers = [f"{10 + n}.{n}" for n in range(12)]
    cells = [f"{number}±0.{n} ({90 - n}.5)" for n, number in enumerate(numbers)]
    text = printed(width, [f"c{n}" for n in range(12)], [(label, cells)])
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    found = [part for block in blocks_of(text) for line in block[1:] for part in line[1:]]
    assert sorted("".join(found).replace(" ", "")) == sorted("".join(cells).replace(" ", ""))
    for n, number in enumerate(numbers):
        for whole in (number, f"±0.{n}", f"({90 - n}.5)"):
            assert sum(whole in part for part in found) >= 1, whole


def test_labels_and_headings_are_no_markup_and_wide_characters_count_twice() -> None:
    text = printed(60, ["[bold]x[/]"], [("data=[fao,mlt]", ["1.0"]), ("日本語", ["2.0"])])
    assert blocks_of(text) == [[["", "[bold]x[/]"], ["data=[fao,mlt]", "1.0"], ["日本語", "2.0"]]]


def test_without_columns_nothing_is_printed_and_without_rows_the_headings() -> None:
    assert printed(80, [], [("fao", [])]) == ""
    assert blocks_of(printed(80, ["fao"], [])) == [[["", "fao"]]]
