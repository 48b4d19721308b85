"""The subcommands of `xlt`: names, what each does, and where it is; a subcommand is imported only when it is called."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NamedTuple

from xlt.commands.help_texts import HELP, help_of


class Subcommand(NamedTuple):
    """A subcommand of `xlt`.

    Attributes:
        module: its Python module, whose `main` takes the words after the name.
        purpose: what it does, for a list.
        reads_configs: whether it composes configs, so that `--config-dir` has a meaning.
    """

    module: str
    purpose: str
    reads_configs: bool = True


SUBCOMMANDS = {
    "predict": Subcommand("xlt.commands.predict", "annotates texts with modules"),
    "evaluate": Subcommand("xlt.commands.evaluate", "scores modules on labelled data"),
    "export": Subcommand("xlt.commands.export", "writes modules for other libraries: transformers, peft"),
    "import": Subcommand("xlt.commands.import_module", "makes a module file of a published module", False),
    "merge": Subcommand("xlt.commands.merge", "computes one module from several: average, layers, ties", False),
    "table": Subcommand("xlt.commands.reproduce", "trains the missing runs of a table and shows it"),
    "plot": Subcommand("xlt.commands.plot", "draws a figure from finished runs"),
    "claims": Subcommand("xlt.commands.claims", "tests published findings on finished runs"),
    "floors": Subcommand("xlt.commands.floors", "scores constant answers on a run's data"),
    "runs": Subcommand("xlt.commands.runs", "lists finished runs, shows or removes one, says why a run is new"),
    "state": Subcommand("xlt.commands.state", "lists or removes the saved state of unfinished runs", False),
    "dashboard": Subcommand("xlt.commands.dashboard", "makes a W&B workspace for a table"),
    "bench": Subcommand("xlt.commands.bench", "measures speed and memory", False),
    "new-method": Subcommand("xlt.commands.new_method", "writes the files of a new method", False),
}
_CONFIG_DIR = ("--config-dir", "-cd")
_PLUG_INS = ("--plugins",)
PLAN = "--plan"
"""The option by which runs, sweeps and tables are planned alone, and nothing is carried out."""
_BEFORE_VALUES = (
    *(*_CONFIG_DIR, *_PLUG_INS, "--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn"),
    *("--info", "-i", "--experimental-rerun"),
)
_OF_COMMANDS = {"table": "table", "figure": "table", "only": "claims"}
"""Keys that no run has -> the command whose keys they are."""
_INSTEAD = {"help": "xlt --help", "version": "xlt --version", "train": "xlt experiment=NAME ..., without a command"}
"""Words that people try as commands -> what they should write."""
_SHORTEST_BEGINNING = 3


def carry_out_subcommand(words: Sequence[str]) -> bool:
    """Carries out the subcommand that a command line names; returns False if it names none.

    The name is the first word that is no option. Options before it count as if they stood after it.

    Args:
        words: of the command line, without the name of the program.
    """
    at = 0
    while at < len(words) and words[at].startswith("-"):
        at += 2 if words[at] in _BEFORE_VALUES else 1
    if at >= len(words) or words[at] not in SUBCOMMANDS:
        return False
    carry_out_named(words[at], [*words[:at], *words[at + 1 :]])
    return True


def carry_out_named(name: str, words: Sequence[str] | None = None) -> None:
    """Carries out a subcommand with the user's folders of configs and plug-ins, which all of them take.

    Args:
        name: of the subcommand.
        words: after the name; None: those of the process, as for a script.
    """
    subcommand = SUBCOMMANDS[name]
    words, config_dirs = _taken(sys.argv[1:] if words is None else words, _CONFIG_DIR)
    words = without_plug_ins(words)
    if name in HELP and not {"--help", "-h"}.isdisjoint(words):
        print(help_of(name), flush=True)
        return
    main = import_module(subcommand.module).main
    if not config_dirs:
        main(words)
        return
    from xlt.commands.ending import refuse
    from xlt.compose import own_configs
    from xlt.errors import UsageError

    if not subcommand.reads_configs:
        refuse([f"--config-dir={config_dirs[-1]}: xlt {name} reads no configs; leave it out"])
    try:
        with own_configs(config_dirs[-1]):
            main(words)
    except UsageError as error:
        refuse(error.lines)


def without_plug_ins(words: Sequence[str]) -> list[str]:
    """Returns the words of a command line without `--plugins FOLDER`; the folders are plug-ins from now on.

    A fault of a folder is refused, with exit code 2.
    """
    words, folders = _taken(words, _PLUG_INS)
    if folders:
        from xlt.commands.ending import refuse
        from xlt.errors import UsageError
        from xlt.plug_ins import use_plug_ins

        try:
            use_plug_ins(folders)
        except UsageError as error:
            refuse(error.lines)
    return words


def _taken(words: Sequence[str], names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Takes an option out of a command line; returns the other words and the option's values."""
    others, values = [], []
    rest = iter(words)
    for word in rest:
        name, sign, value = word.partition("=")
        if name not in names:
            others.append(word)
        elif (given := value if sign else next(rest, "")) != "":
            values.append(given)
        else:
            from xlt.commands.ending import refuse

            refuse([f"{name}: give a folder after it"])
    return others, values


def near_subcommand(word: str) -> str | None:
    """Returns the name of the subcommand that a word is or may stand for; None if it is like none."""
    word = word.lower().replace("_", "-")
    begun = [name for name in SUBCOMMANDS if len(word) >= _SHORTEST_BEGINNING and name.startswith(word)]
    begun += [name for name in SUBCOMMANDS if word.startswith(name)]
    return next(iter(begun or difflib.get_close_matches(word, SUBCOMMANDS, n=1, cutoff=0.7)), None)


def wrong_command(words: Sequence[str]) -> str | None:
    """Returns a line about a command line without words, or whose command is misspelt, misplaced or left out, or None.

    It is one line, because only the command that is meant knows what the other words are. Nothing is composed for it.

    Args:
        words: of a command line that names no subcommand where one should be.
    """
    if not words:
        return "give what to run, for instance: xlt experiment=nano_fields; xlt --help has the rest"
    before = ""
    is_first = True
    for word in words:
        is_value, before = before in _BEFORE_VALUES, word
        if is_value or word.startswith("-"):
            continue
        key, sign, _ = word.partition("=")
        if sign and (command := _OF_COMMANDS.get(key)) is not None:
            return f"{word}: {key} belongs to the command xlt {command}; write xlt {command} {word}"
        if is_stray(word) and (instead := _INSTEAD.get(word)) is not None:
            return f"{word}: no such command; write {instead}"
        if is_stray(word) and (near := near_subcommand(word)) is not None:
            if is_first:
                return f"{word}: no such command; did you mean xlt {near}?"
            return f"{word}: not an override; did you mean the command xlt {near}? It stands before all overrides"
        is_first = False
    return None


def is_stray(word: str) -> bool:
    """Returns whether a word of the command line does not have the form of an override."""
    return word.startswith(("=", "-")) or ("=" not in word and not word.startswith("~"))
