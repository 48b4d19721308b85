"""Tests the findings of the thesis, and of papers, on the runs that are in the stores. It trains nothing.

    python scripts/claims.py seeds=[1,2] data_dir=... model.path=... stores.nano.output_dir=...
    python scripts/claims.py only=[upsampling,shots] ...

The claims are in conf/claims.yaml. `stores.NAME.KEY=` applies to the tables of one store; other overrides apply to
all runs of `stores.encoder`. The script writes claims.md and claims.json into `output_dir`.
"""

from functools import partial

from xlt.commands.subcommands import carry_out_named

main = partial(carry_out_named, "claims")

if __name__ == "__main__":
    main()
