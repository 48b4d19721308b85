"""Tests the thesis's findings on the runs that are there; trains nothing.

    python scripts/claims.py seeds=[1,2] data_dir=... model.path=... stores.nano.output_dir=...
    python scripts/claims.py only=[upsampling,shots] ...

The claims are in conf/claims.yaml. `stores.NAME.KEY=` is for a store's tables; an override of every run goes to
those of `stores.encoder`. Writes claims.md and claims.json into `output_dir`.
"""

from xlt.commands.claims import main

if __name__ == "__main__":
    main()
