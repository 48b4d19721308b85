"""Commands that must be refused: exit code 2, one line for each fault, nothing left behind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from tests.runs.conftest import Ended

# A command that runs; each wrong command is this one with a mistake added. `input_files` replaces the names in braces.
RIGHT = ("--config-dir", "{configs}", "experiment=right", "data_dir={data}", "model.path={model}")
WITH_MODULE = ("~data.evaluation.fao", "+language_modules.paths.eng={module}")
Mistakes = dict[str, tuple[tuple[str, ...], list[list[str]]]]
"""Name of the mistake -> words of a command, and for each expected line the parts that it must contain."""


def filled(words: Sequence[str], input_files: dict[str, Path]) -> list[str]:
    """Returns the words with the paths of the files that they name in braces."""
    return [word.format(**input_files) for word in words]


def refused(ended: Ended, expected: list[list[str]]) -> None:
    """Asserts exit code 2, a line for each fault and no other, and nothing left behind."""
    assert ended.code == 2, ended
    assert len(ended.lines) == len(expected), ended.lines
    assert all(line.startswith("xlt: ") for line in ended.lines), ended.lines
    for fragments in expected:
        assert any(all(fragment in line for fragment in fragments) for line in ended.lines), (fragments, ended.lines)
    assert not ended.out
    assert not ended.left, ended.left


def assert_refused(
    command: Callable[..., Ended], input_files: dict[str, Path], words: Sequence[str], expected: list[list[str]]
) -> None:
    """Asserts that the right command with these further words is refused and changes no folder of `input_files`."""
    before = _listing(input_files)
    refused(command(*filled((*RIGHT, *words), input_files)), expected)
    assert _listing(input_files) == before


def _listing(input_files: dict[str, Path]) -> list[str]:
    return sorted(str(path) for entry in input_files.values() if entry.is_dir() for path in entry.rglob("*"))
