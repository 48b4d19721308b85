"""The command `xlt state`, which lists or removes the saved state of unfinished runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import datetime

from xlt.commands.ending import guarded
from xlt.commands.help_texts import help_of
from xlt.console import Terminal
from xlt.errors import UsageError
from xlt.plan.store import RunStore

_REMOVE = "--remove"
_KEY = "output_dir="


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command; the entry point of the script."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    guarded(lambda: show_state(words))


def show_state(words: Sequence[str]) -> int:
    """Lists the state of unfinished runs, largest first, and removes it with `--remove`; returns the exit code.

    Raises:
        UsageError: a word is unknown, or there is no folder of runs.
    """
    if not words or "--help" in words or "-h" in words:
        print(help_of("state"))
        return 0
    if unknown := [word for word in words if word != _REMOVE and not word.startswith(_KEY)]:
        raise UsageError(
            *(f"{word}: unknown word; give output_dir=FOLDER, and {_REMOVE} to remove the state" for word in unknown)
        )
    folders = [word.removeprefix(_KEY) for word in words if word.startswith(_KEY)]
    if len(folders) != 1:
        raise UsageError("output_dir: give one folder, for instance output_dir=outputs")
    store = RunStore(folders[0])
    if not store.runs.is_dir():
        raise UsageError(f"output_dir={folders[0]}: there are no runs; the folder {store.runs} does not exist")
    console = Terminal()

    def say(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    sizes = {}
    unfinished = store.unfinished()
    for name, files in unfinished.items():
        sizes[name] = sum(file.stat().st_size for file in files)
    for name in sorted(sizes, key=lambda name: -sizes[name]):
        saved = datetime.fromtimestamp(max(file.stat().st_mtime for file in unfinished[name]))
        why = store.failure(name)
        reason = f"  failed: {why}" if why is not None else ""
        say(f"{store.folder(name)}  {sizes[name] / 1e6:.1f} MB  saved {saved:%Y-%m-%d %H:%M}{reason}")
    removed = _REMOVE in words
    for name in unfinished if removed else ():
        with store.lock(name):
            if not store.is_trained(name):
                for file in unfinished[name]:
                    file.unlink(missing_ok=True)
    total = f"{len(sizes)} unfinished runs, {sum(sizes.values()) / 1e6:.1f} MB"
    say(f"{total}: removed" if removed else f"{total}; {_REMOVE} removes it")
    return 0
