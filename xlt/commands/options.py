"""The parser of the options of a subcommand: its help fits the terminal, and a fault is one line with exit code 2."""

from __future__ import annotations

import argparse
import difflib
import re
import sys
import textwrap
from collections.abc import Sequence
from typing import NoReturn

from xlt.commands.ending import refuse
from xlt.commands.fitting import fitted, help_width

_NEGATIVE = re.compile(r"-\.?\d")  # the beginning of a number, which no option has


class Options(argparse.ArgumentParser):
    """A parser for one subcommand; options may stand before, between and after its other words.

    Args:
        name: of the subcommand.
        description: paragraphs with empty lines between them; those that begin with a blank stay as they are.
    """

    def __init__(self, name: str, description: str) -> None:
        parts = re.split(r"\n\s*\n", description.strip("\n"))
        width = help_width()
        kept = (
            fitted(part, width) if part[:1] == " " else textwrap.fill(" ".join(part.split()), width) for part in parts
        )
        super().__init__(
            prog=f"xlt {name}",
            description="\n\n".join(kept),
            formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, width=width),
            allow_abbrev=False,
        )

    def parse(self, words: Sequence[str] | None) -> argparse.Namespace:
        """Parses the words; None: those of the process. A word such as -1,2 after an option is its value."""
        joined: list[str] = []
        for word in sys.argv[1:] if words is None else words:
            if joined and _NEGATIVE.match(word) and re.fullmatch(r"--[a-z-]+", joined[-1]):
                joined[-1] += f"={word}"
            else:
                joined.append(word)
        return self.parse_intermixed_args(joined)

    def error(self, message: str) -> NoReturn:
        _, marker, unknown = message.partition("unrecognized arguments: ")
        if not marker:
            refuse([message.removeprefix("argument ")])
        names = [name for action in self._actions for name in action.option_strings]
        lines = []
        for word in unknown.split():
            near = difflib.get_close_matches(word.partition("=")[0], names, n=1, cutoff=0.6)
            advice = f"did you mean {near[0]}?" if near else f"see {self.prog} --help"
            lines.append(f"{word}: no such option; {advice}")
        refuse(lines)
