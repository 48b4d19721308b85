"""Reproduces a table: plans all runs, carries out the missing ones, and shows ours beside the published numbers.

    python scripts/reproduce_table.py table=quickstart
    python scripts/reproduce_table.py table=4.2 data_dir=... model.path=... seeds=[1,2]

`table=`, `table.KEY=`, `seeds=`, `launcher=` and `output_dir=` apply to the table; all other overrides apply to every
run. `--plan` only prints the plan; `--show` only shows the table, with the results that exist already.
"""

from functools import partial

from xlt.commands.subcommands import carry_out_named

main = partial(carry_out_named, "table")

if __name__ == "__main__":
    main()
