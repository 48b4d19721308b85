"""The subcommands of `xlt`: names, what each does, and where it is; a subcommand is imported only when it is called."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from importlib import import_module
from typing import NamedTuple


class Subcommand(NamedTuple):
    """A subcommand of `xlt`.

    Attributes:
        module: its Python module, whose `main` takes the words after the name.
        purpose: what it does, for a list.
    """

    module: str
    purpose: str


SUBCOMMANDS = {
    "predict": Subcommand("xlt.commands.predict", "annotates texts with modules"),
    "evaluate": Subcommand("xlt.commands.evaluate", "scores modules on labelled data"),
    "export": Subcommand("xlt.commands.export", "writes modules for other libraries: transformers, peft"),
    "import": Subcommand("xlt.commands.import_module", "makes a module file of a published module"),
    "table": Subcommand("xlt.commands.reproduce", "trains the missing runs of a table and shows it"),
    "plot": Subcommand("xlt.commands.plot", "draws a figure from finished runs"),
    "claims": Subcommand("xlt.commands.claims", "tests published findings on finished runs"),
    "floors": Subcommand("xlt.commands.floors", "scores constant answers on a run's data"),
    "runs": Subcommand("xlt.commands.runs", "lists finished runs, shows one, says why a run is new"),
    "state": Subcommand("xlt.commands.state", "lists or removes the saved state of unfinished runs"),
    "dashboard": Subcommand("xlt.commands.dashboard", "makes a W&B workspace for a table"),
}
_WITH_VALUE = ("--config-dir", "-cd")


def carry_out_subcommand(words: Sequence[str]) -> bool:
    """Carries out the subcommand that a command line names; returns False if it names none.

    The name is the first word that is no option. Options before it count as if they stood after it.

    Args:
        words: of the command line, without the name of the program.
    """
    at = 0
    while at < len(words) and words[at].startswith("-"):
        at += 2 if words[at] in _WITH_VALUE else 1
    if at >= len(words) or words[at] not in SUBCOMMANDS:
        return False
    import_module(SUBCOMMANDS[words[at]].module).main([*words[:at], *words[at + 1 :]])
    return True


def near_subcommand(word: str) -> str | None:
    """Returns the name of the subcommand that a word may stand for; None if it is like none."""
    return next(iter(difflib.get_close_matches(word, SUBCOMMANDS, n=1, cutoff=0.7)), None)


def is_stray(word: str) -> bool:
    """Returns whether a word of the command line does not have the form of an override."""
    return word.startswith(("=", "-")) or ("=" not in word and not word.startswith("~"))
