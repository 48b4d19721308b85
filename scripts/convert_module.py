"""Converts published modules to our format, and our adapters to AdapterHub's.

    python scripts/convert_module.py FOLDER --model MODEL --language swa --output swahili.safetensors

The same as `xlt import`, whose `--help` says more.
"""

from xlt.commands.import_module import main

if __name__ == "__main__":
    main()
