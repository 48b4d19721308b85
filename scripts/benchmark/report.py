"""Command line and JSON record of a benchmark."""

from __future__ import annotations

import argparse
import json
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch

_COUNTS = {
    "rounds": "how often each contender is measured",
    "repeats": "how often each contender is measured",
    "threads": "CPU threads of torch",
    "batch": "sequences in a batch",
    "tokens": "tokens in a sequence",
}


class CommandLine(argparse.ArgumentParser):
    """The options of a benchmark. Wrong input is refused in one line, with exit code 2."""

    def __init__(self, description: str | None, **counts: int) -> None:
        """
        Args:
            description: the docstring of the script, shown by `--help` as it is.
            counts: option without its dashes (a key of `_COUNTS`) -> default value.
        """
        super().__init__(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
        for name, default in counts.items():
            self.add_count(name, default, _COUNTS[name])
        self.add_argument("--output", type=_file, default=None, metavar="FILE", help="JSON file for the record")

    def add_count(self, name: str, default: int | None, help: str, least: int = 1) -> None:
        """Adds the option `--NAME`, a whole number of `least` or more."""

        def count(word: str) -> int:
            if not re.fullmatch(r"-?\d+", word) or int(word) < least:
                raise argparse.ArgumentTypeError(f"{word}: must be a whole number of {least} or more")
            return int(word)

        text = help if default is None else f"{help}; default: %(default)s"
        self.add_argument(f"--{name.replace('_', '-')}", type=count, default=default, metavar="N", help=text)

    def add_device(self) -> None:
        default = "cuda" if torch.cuda.is_available() else "cpu"
        self.add_argument("--device", choices=("cpu", "cuda"), default=default, help="default here: %(default)s")

    def add_precision(self) -> None:
        about = "bf16: matrix products in bfloat16 (autocast); default: %(default)s"
        self.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help=about)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message.removeprefix('argument ')}\n")


def _file(word: str) -> Path:
    if Path(word).is_dir():
        raise argparse.ArgumentTypeError(f"{word} is a folder; give a file, for instance {word}/record.json")
    return Path(word)


def settings(options: argparse.Namespace, *left_out: str) -> dict[str, Any]:
    """The options as a part of the record, without `output` and those named."""
    return {name: value for name, value in vars(options).items() if name not in ("output", *left_out)}


def machine(device: torch.device | str = "cpu") -> dict[str, Any]:
    """Name of the device, version and number of CPU threads of torch, for the record."""
    return {"device": device_name(device), "torch": torch.__version__, "threads": torch.get_num_threads()}


def device_name(device: torch.device | str = "cpu") -> str:
    """The name of the GPU, or of the processor if Linux gives it, otherwise the processor's architecture."""
    if torch.device(device).type == "cuda":
        return str(torch.cuda.get_device_name(device))
    file = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*:\s*(.+)$", file.read_text(), re.MULTILINE) if file.is_file() else []
    return names[0] if names else platform.processor() or platform.machine()


def write_record(record: Mapping[str, Any], output: Path | None, *, prints: bool = False) -> None:
    """Writes the record as JSON to a file, and makes the file's folder, unless `output` is None.

    Args:
        prints: if true, the record is printed, too.
    """
    text = json.dumps(record, indent=1)
    if prints:
        print(text)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(text + "\n", encoding="utf-8")
