"""Refuses TSV files whose cells are in quotes, which would become a part of the texts."""

from __future__ import annotations

from xlt.config import SourceConfig
from xlt.data.readers import tsv
from xlt.errors import UsageError

_ADVICE = "; give the source quoting=rfc"


def refuse_quoted_cells(path: str) -> None:
    """Refuses a TSV file whose quotes are all such as RFC 4180 requires; see `xlt.data.readers.tsv`.

    Raises:
        UsageError: the file is one; the message names the line, and the options that read it.
    """
    source = SourceConfig(
        reader="tsv",
        language="",
        path=path,
        split="test",
        files={},
        fields={"text": "0"},
        codes={},
        where={},
        quoting=None,
    )
    try:
        next(iter(tsv.read(source)), None)
    except UsageError as error:
        fault, advice, _ = error.lines[0].partition(_ADVICE)
        if advice:
            raise UsageError(f"{fault}; to remove these quotes, give --from csv --separator tab") from error
        # The command that reads the file says what else is wrong with it.
