"""The entry point of `xlt`: it decides between a subcommand and a run, and imports only what is needed for that."""

from __future__ import annotations

import sys

from xlt.commands.subcommands import carry_out_subcommand, wrong_command


def main() -> None:
    """Runs the command `xlt`, or the subcommand that its first word names."""
    try:
        _main()
    except BrokenPipeError:
        from xlt.commands.ending import end_unread

        end_unread()


def _main() -> None:
    if carry_out_subcommand(sys.argv[1:]):
        return
    if "--version" in sys.argv[1:]:
        from importlib.metadata import version

        import xlt

        print(f"xlt {xlt.__version__}, Hydra {version('hydra-core')}")
        return
    if (line := wrong_command(sys.argv[1:])) is not None:
        from xlt.commands.ending import refuse

        refuse([line])
    if sys.argv[1:] in (["--help"], ["-h"]):
        from xlt.commands.fitting import fitted, help_width
        from xlt.commands.usage import plain_help

        if (text := plain_help()) is not None:
            print(fitted(text, help_width()), flush=True)
            return
    from xlt.commands.without_torch import complete, refuse_unknown_keys

    if complete(sys.argv[1:]):
        return
    refuse_unknown_keys(sys.argv[1:])
    from xlt.commands.cli import main as run

    run()
