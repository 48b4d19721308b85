"""The command `xlt dashboard`, which makes a W&B workspace for a table."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from xlt.commands.ending import FAILURE, guarded
from xlt.commands.help_texts import help_of
from xlt.compose import command_line, hydra_ready
from xlt.escapes import say
from xlt.tables.columns import list_columns
from xlt.tables.request import request_table
from xlt.tracking.workspace import Workspace, create, has_account, table_workspace


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command; the entry point of the script."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    with command_line(words):
        guarded(lambda: dashboard(words))


def dashboard(words: list[str]) -> int:
    """Creates the workspace, or prints what it would contain if there is no account; returns the exit code.

    Raises:
        UsageError: overrides are wrong, or the W&B client is not installed.
    """
    if not words or "--help" in words or "-h" in words:
        print(help_of("dashboard"))
        return 0
    workspace = workspace_of(words)
    if not has_account():
        print("There is no W&B account here (set WANDB_API_KEY, or call `wandb login`). With one, it would contain:\n")
        print("\n".join(workspace.lines()))
        return 0
    try:
        print(create(workspace))
    except OSError as error:  # network errors
        say(f"xlt: W&B: {' '.join(str(error).split())}")
        return FAILURE
    return 0


def workspace_of(words: list[str]) -> Workspace:
    """Describes the workspace of a table; `words` are as for `scripts/reproduce_table.py`.

    Raises:
        UsageError: wrong overrides.
    """
    with hydra_ready():
        request = request_table(words)
        grids = [list_columns(grid, request.overrides) for grid in request.grids.values()]
        return table_workspace(request.name, grids, request.overrides)
