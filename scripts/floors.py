"""Scores of constant answers, for comparison with the scores of trained models on the same data.

    python scripts/floors.py experiment=parsing data_dir=... model.path=...

The same as `xlt floors`, whose `--help` says which answers these are.
"""

from functools import partial

from xlt.commands.subcommands import carry_out_named

main = partial(carry_out_named, "floors")

if __name__ == "__main__":
    main()
