"""Scores of constant answers, for comparison with the scores of trained models on the same data.

    python scripts/floors.py experiment=parsing data_dir=... model.path=...

The same as `xlt floors`, whose `--help` says which answers these are.
"""

from xlt.commands.floors import main

if __name__ == "__main__":
    main()
