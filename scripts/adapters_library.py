"""The `adapters` library's models: random ones of several families, and where their adapters' parameters are.

The library pins an older transformers, so scripts that use it run in an environment of their own, xlt installed first.
"""

from __future__ import annotations

import argparse
import importlib.metadata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmark.report import CommandLine
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    DebertaV2Config,
    DebertaV2ForMaskedLM,
    LlamaConfig,
    LlamaForCausalLM,
    XLMRobertaConfig,
    XLMRobertaForMaskedLM,
)

from xlt.modules.adapter import Adapter, BottleneckAdapter

SIZE: dict[str, Any] = {
    "vocab_size": 60,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "max_position_embeddings": 16,
}
_NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
_DEBERTA: dict[str, Any] = {
    "relative_attention": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_buckets": 4,
    "max_relative_positions": 8,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
}
# Name of the family -> a function that makes a random model.
FAMILIES = {
    "bert": lambda: BertForMaskedLM(BertConfig(**SIZE, **_NO_DROPOUT)),
    "xlm-roberta": lambda: XLMRobertaForMaskedLM(XLMRobertaConfig(**SIZE, **_NO_DROPOUT)),
    "deberta-v2": lambda: DebertaV2ForMaskedLM(DebertaV2Config(**SIZE, **_NO_DROPOUT, **_DEBERTA)),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZE)),
}


def parity_options(description: str | None) -> argparse.Namespace:
    """Reads the command line of a script that compares with the library; `golden` is a folder or None.

    The script ends with exit code 2 if the library is not installed.
    """
    line = CommandLine(description)
    line.add_argument(
        "--golden", type=Path, default=None, help="folder for the files that the test suite compares with"
    )
    options = line.parse_args()
    if _version("adapters") is None:
        line.error("the adapters library is not installed; pip install adapters, in an environment of its own")
    return options


def versions(packages: Sequence[str] = ("adapters", "transformers", "torch")) -> dict[str, str | None]:
    """Package -> version, None where it is not installed."""
    return {package: _version(package) for package in packages}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def bottleneck_layers(model: Any, name: str) -> list[tuple[str, Any]]:
    """Path and layer of each bottleneck of an adapter: lowest block first, attention before the feed-forward layer."""
    layers = [
        (path, module)
        for path, module in model.named_modules()
        if type(module).__name__ == "Adapter" and module.name == name
    ]
    return sorted(layers, key=lambda item: block_number(item[0]))


def block_number(path: str) -> int:
    """The number of the block that a path names: 3 of encoder.layer.3.output."""
    return next(int(part) for part in path.split(".") if part.isdigit())


def parameter_pairs(model: Any, module: Adapter, name: str) -> list[tuple[Tensor, Tensor]]:
    """Parameters of our module and of the library's adapter of that name, pair by pair."""
    pairs: list[tuple[Tensor, Tensor]] = []
    for ours, (_, layer) in zip(module.adapters.values(), bottleneck_layers(model, name), strict=True):
        pairs += bottleneck_pairs(ours, layer.adapter_down[0], layer.adapter_up)
    if module.invertible is not None:
        block = model.base_model.invertible_adapters[name]
        pairs += bottleneck_pairs(module.invertible.first, block.F[0], block.F[2])
        pairs += bottleneck_pairs(module.invertible.second, block.G[0], block.G[2])
    return pairs


def bottleneck_pairs(ours: BottleneckAdapter, down: nn.Linear, up: nn.Linear) -> list[tuple[Tensor, Tensor]]:
    """Parameters of our bottleneck and of the library's two projections, pair by pair."""
    return [
        (ours.down.weight, down.weight),
        (ours.down.bias, down.bias),
        (ours.up.weight, up.weight),
        (ours.up.bias, up.bias),
    ]


def largest_difference(a: Tensor, b: Tensor) -> float:
    """Of two tensors, entry by entry, absolute."""
    return float((a - b).abs().max())
