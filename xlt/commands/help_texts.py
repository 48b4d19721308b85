"""What `xlt NAME --help` shows for subcommands that take overrides; it is shown without importing them."""

from __future__ import annotations

from xlt.commands.fitting import fitted, help_width

HELP = {
    "table": """\
usage: xlt table table=NAME [seeds=[1,2,3]] [launcher=NAME] [--plan | --show]
                 [override of every run ...]
       xlt table --list

  table=4.2        a table of the thesis by its number; figure=4.2 makes the
                   table of a figure; --list has all names
  --plan           print which runs exist and which are missing, and how long
                   past runs took; start no run
  --show           print the table from the finished runs; start no run
  table.rows=[..]  show only these systems; likewise table.columns,
                   table.average, table.headings""",
    "plot": """\
usage: xlt plot figure=NUMBER [seeds=[1,2,3]] [output_dir=outputs]
                [override of every run ...]

Draws a figure of the thesis from the runs that are in the store; trains
nothing.

  figure=4.2       a figure's number in the thesis, or the name of a table that
                   has a figure; xlt table --list has all of them
  other overrides  those of xlt table""",
    "claims": """\
usage: xlt claims [only=[NAME,...]] [seeds=[1,2]] [stores.NAME.KEY=VALUE ...]
                  [override of every run ...]

Tests the findings of the thesis, and of papers, on the runs that are in the
stores; trains nothing.

  only=[..]         only these claims of conf/claims.yaml
  stores.NAME.KEY=  applies to the tables of one store; other overrides apply
                    to all runs of stores.encoder
  output_dir=DIR    folder for claims.md and claims.json""",
    "dashboard": """\
usage: xlt dashboard table=NAME [tracker.project=...] [tracker.entity=...]
                     [override ...]

Creates the W&B workspace of a table's runs. Without an account, it prints what
it would create.""",
    "state": """\
usage: xlt state output_dir=FOLDER [--remove]

Lists the saved state of runs that were begun and not finished; --remove removes
it. Such runs then start from the beginning. What another process is working on
is left alone.""",
}


def help_of(name: str) -> str:
    """Returns the help of a subcommand in `HELP`, as wide as the terminal."""
    return fitted(HELP[name], help_width())
