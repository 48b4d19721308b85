"""Draws a figure of the thesis from the runs that are there; trains nothing.

    python scripts/plot.py figure=4.2 data_dir=... model.path=... seeds=[1,2]
    python scripts/plot.py figure=sizes_ner_mini ...

`figure=` is a number of the thesis or a table with a picture; the rest is as for `scripts/reproduce_table.py`.
"""

from xlt.commands.plot import main

if __name__ == "__main__":
    main()
