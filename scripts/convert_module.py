"""Converts published modules to our format, and our adapters to AdapterHub's.

    python scripts/convert_module.py FOLDER --model MODEL --language swa --output swahili.safetensors

The same as `xlt import`, whose `--help` says more.
"""

from functools import partial

from xlt.commands.subcommands import carry_out_named

main = partial(carry_out_named, "import")

if __name__ == "__main__":
    main()
