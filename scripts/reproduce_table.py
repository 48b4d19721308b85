"""Reproduces a table: plans every run it needs, does what is missing, and shows ours beside the published numbers.

    python scripts/reproduce_table.py table=quickstart
    python scripts/reproduce_table.py table=4.2 data_dir=... model.path=... seeds=[1,2]

`table=`, `table.KEY=`, `seeds=`, `launcher=` and `output_dir=` are the table's; every other override goes to all runs.
`--plan` prints the plan and stops; `--show` shows the table with what there is of it and stops.
"""

from xlt.commands.reproduce import main

if __name__ == "__main__":
    main()
