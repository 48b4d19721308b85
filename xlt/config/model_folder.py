"""Checks the small files of a local model before a library reads them: what they ask for could fill the memory."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from xlt import files

MOST_LAYERS = 2000
_MOST_POSITIONS = 100_000_000
_MOST_BYTES = {"config.json": 10_000_000, "tokenizer.json": 1_000_000_000}
_LARGEST_ID = 50_000_000
_FILES = ("*.safetensors", "*.bin", "*.json", "*.model", "*.txt", "*.jinja")
# The names that families give to sizes.
_LAYERS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers", "encoder_layers", "decoder_layers")
_WIDTHS = ("hidden_size", "d_model", "n_embd", "dim", "emb_dim")
_EMBEDDING_WIDTHS = ("embedding_size", *_WIDTHS)
_INNER = ("intermediate_size", "ffn_dim", "d_ff", "n_inner", "encoder_ffn_dim", "decoder_ffn_dim")
_POSITIONS = ("max_position_embeddings", "n_positions", "n_ctx")
_ENTRIES_PER_BYTE = 8  # of the weights; with room for weights of a bit, and for embeddings narrower than the model
# A large integer, not a digit of a decimal number.
_LARGE_NUMBER = re.compile(rb"(?<![\d.eE+-])\d{8,}(?![\d.eE])")


def kind_fault(folder: Path) -> str | None:
    """Returns which of a model's files is a folder, a pipe or a device, for which a reader could wait; None if none."""
    for file in (file for pattern in _FILES for file in sorted(folder.glob(pattern))):
        try:
            fault = files.kind_fault(file.stat())
        except OSError as error:
            fault = f"cannot be read ({error.strerror})"
        if fault is not None:
            return f"{file.name} {fault}"
    return None


def model_folder_fault(folder: Path) -> str | None:
    """Returns why a model is larger than its weights can be, or has absurd token numbers; None if it looks right.

    A file that is no JSON is left to transformers.

    Args:
        folder: with `config.json` and weights; all files are regular ones.
    """
    for name, most in _MOST_BYTES.items():
        if (folder / name).is_file() and (size := (folder / name).stat().st_size) > most:
            return f"{name} has {size} bytes, of which a model's file has at most {most}"
    weights = [file for pattern in ("*.safetensors", "*.bin") for file in folder.glob(pattern)]
    try:
        config = json.loads((folder / "config.json").read_bytes())
    except RecursionError:
        return "config.json is nested too deep"
    except (ValueError, OSError):
        return None
    for sizes in _mappings(config):
        if (fault := _size_fault(sizes, sum(file.stat().st_size for file in weights))) is not None:
            return f"config.json: {fault}"
    return _token_fault(folder / "tokenizer.json")


def memory_bytes() -> int:
    """Returns the memory of this machine, in bytes; very much if the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 1 << 62


def _mappings(value: Any) -> Iterator[dict[str, Any]]:
    """Yields a config and the configs of its parts, such as `text_config`."""
    if isinstance(value, dict):
        yield value
        for part in value.values():
            if isinstance(part, dict):
                yield from _mappings(part)


def _size_fault(config: dict[str, Any], weights: int) -> str | None:
    """Returns which size a model with weights of so many bytes cannot have; None if it can have all."""
    for name in _LAYERS:
        if _number(config, (name,)) > MOST_LAYERS:
            return f"{name}={_shown(config[name])}: no model has more than {MOST_LAYERS} layers"
    for name in _POSITIONS:
        if _number(config, (name,)) > _MOST_POSITIONS:
            return f"{name}={_shown(config[name])}: no model has more than {_MOST_POSITIONS} positions"
    width = _number(config, _WIDTHS)
    for name in ("vocab_size", *_INNER):
        rows, columns = _number(config, (name,)), width
        if name == "vocab_size":
            columns = _number(config, _EMBEDDING_WIDTHS)
        if rows * columns > weights * _ENTRIES_PER_BYTE:
            return (
                f"{name}={_shown(config[name])}, with width {_shown(columns)}, does not fit weights of {weights} bytes"
            )
    if width > weights * _ENTRIES_PER_BYTE:
        return f"the width {_shown(width)} does not fit weights of {weights} bytes"
    return None


def _number(config: dict[str, Any], names: tuple[str, ...]) -> int:
    values = (config.get(name) for name in names)
    return next((value for value in values if isinstance(value, int) and not isinstance(value, bool)), 0)


def _shown(number: int) -> str:
    return str(number) if abs(number) < 10**30 else f"an integer of {number.bit_length()} bits"


def _token_fault(file: Path) -> str | None:
    """Returns which token has an absurd number, to which a library could make a table; None if none has.

    Numbers of nine digits are looked for first, because reading all of the JSON takes a second.
    """
    if not file.is_file():
        return None
    raw = file.read_bytes()
    if not any(int(match.group()[:12]) > _LARGEST_ID for match in _LARGE_NUMBER.finditer(raw)):
        return None
    try:
        content = json.loads(raw)
        numbers = {str(token.get("content")): token.get("id") for token in content.get("added_tokens") or ()}
        vocabulary = (content.get("model") or {}).get("vocab")
        numbers |= vocabulary if isinstance(vocabulary, dict) else {}
    except RecursionError:
        return f"{file.name} is nested too deep"
    except (ValueError, AttributeError, TypeError):
        return None
    large = next((token for token, number in numbers.items() if isinstance(number, int) and number > _LARGEST_ID), None)
    if large is None:
        return None
    return f"{file.name}: the token {large[:50]!r} has the number {_shown(numbers[large])}; no vocabulary is that large"
