"""Draws a figure of the thesis from the runs that are in the store. It trains nothing.

    python scripts/plot.py figure=4.2 data_dir=... model.path=... seeds=[1,2]
    python scripts/plot.py figure=4.2 table.headings=[NER] ...

`figure=` is a figure's number in the thesis, or the name of a table that has a figure. All other overrides are those
of `scripts/reproduce_table.py`.
"""

from functools import partial

from xlt.commands.subcommands import carry_out_named

main = partial(carry_out_named, "plot")

if __name__ == "__main__":
    main()
