"""Reads tab-separated values: a line is a record, a tab ends a cell, and quotes are letters.

Programs that write RFC 4180 (pandas, Excel) put a cell with a quote, a tab or a line break into quotes, and double the
quotes in it. The source's `quoting=rfc` reads such files. A file whose quotes all look like this is refused until the
source says what they are, because the text of its cells would have too many quotes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from xlt.config import SourceConfig
from xlt.data.examples import Example
from xlt.data.files import lines_of, split_file
from xlt.data.records import fields_of
from xlt.data.tables import quoted_rows, table_examples
from xlt.errors import UsageError

CHOOSES_ROWS = True
USES = ("quoting",)


def files(source: SourceConfig) -> list[Path]:
    """Returns the file at `path`, or `SPLIT.tsv` in the folder `path`.

    Raises:
        UsageError: there is no such file, or `fields` names no column.
    """
    fields_of(source)
    return [split_file(source, ("{split}.tsv",))]


def read(source: SourceConfig) -> Iterator[Example]:
    """Yields one example per record; empty lines are skipped.

    Raises:
        UsageError: a line is broken, or it is not clear what quotes mean; the message names the line.
    """
    (file,) = files(source)
    if source.quoting == "rfc":
        yield from table_examples(source, file, quoted_rows(file, "\t"))
        return
    if source.quoting is None:
        _refuse_quoted(file)
    yield from table_examples(source, file, ((number, line.split("\t")) for number, line in lines_of(file) if line))


def _refuse_quoted(file: Path) -> None:
    """Refuses a file in which every quote is one that RFC 4180 requires.

    One cell with other quotes (`"a` or `say "a"`) shows that quotes are letters. A cell wholly in quotes, without
    quotes inside, can be a quotation; if all cells of the file but numbers are like this, they are quoted.
    """
    doubled: int | None = None
    all_quoted, lines = True, 0
    for number, line in lines_of(file):
        if not line:
            continue
        lines += 1
        cells = line.split("\t")
        all_quoted = all_quoted and '"' in line and all(_is_quoted(cell) or _is_number(cell) for cell in cells)
        for cell in cells if '"' in line else ():
            if '"' not in cell:
                continue
            if not _is_quoted(cell):
                return
            if '"' in cell[1:-1] and doubled is None:
                doubled = number
    if doubled is not None or (all_quoted and lines > 1):
        raise UsageError(
            f"{file}:{doubled or 1}: cells are in quotes as pandas and Excel write them; give the source quoting=rfc "
            "to remove these quotes, or quoting=letters if they are part of the text"
        )


def _is_quoted(cell: str) -> bool:
    """Returns whether a cell is in quotes, and all quotes inside are doubled."""
    return len(cell) > 1 and cell[0] == cell[-1] == '"' and '"' not in cell[1:-1].replace('""', "")


def _is_number(cell: str) -> bool:
    """Returns whether a cell is empty or a number, which programs that quote all texts leave without quotes."""
    return not cell or cell.lstrip("-").replace(".", "", 1).isdecimal()
