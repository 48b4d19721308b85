"""Bottleneck adapters beside those of the `adapters` library: the same weights, forward and gradients, in float64.

    python scripts/parity_adapters.py --output parity.json

`adapters` pins an older transformers: run this in an environment of its own, xlt installed first. Each row has the
largest absolute differences over a stack of a language adapter with an invertible one and a task adapter. With
`--golden tests/data/adapters` the script also writes the files that the test suite compares with, since the test suite
runs without the library.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from adapters_library import (
    FAMILIES,
    SIZE,
    block_number,
    bottleneck_layers,
    bottleneck_pairs,
    largest_difference,
    parameter_pairs,
    parity_options,
    versions,
)
from benchmark.report import write_record
from safetensors.torch import save_file
from torch import nn

from xlt.models.sublayers import find_blocks, output_embeddings
from xlt.models.transfer import TransferModel, split_pretrained
from xlt.modules import ModuleHeader, ModuleStack
from xlt.modules.adapter import Adapter, BottleneckAdapter, Ends, InvertibleAdapter

CONFIGURATIONS = ("pfeiffer", "houlsby")
_IDS = torch.tensor([[3, 14, 15, 9, 26], [5, 35, 8, 9, 7]])


def compare(family: str, configuration: str, golden: Path | None = None) -> dict[str, float]:
    """Largest absolute differences of representations, logits, and the gradients of both adapters' parameters.

    Args:
        golden: folder for the base model, the two modules, and the library's results.
    """
    import adapters
    from adapters import DoubleSeqBnConfig, SeqBnConfig, SeqBnInvConfig
    from adapters.composition import Stack

    torch.manual_seed(0)
    theirs: Any = FAMILIES[family]().double().eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    ours = TransferModel(*split_pretrained(_same_model(theirs, family)), "hash", family)

    adapters.init(theirs)
    left_out = [SIZE["num_hidden_layers"] - 1]
    if configuration == "pfeiffer":
        theirs.add_adapter("language", SeqBnInvConfig(reduction_factor=2, leave_out=left_out))
        theirs.add_adapter("task", SeqBnConfig(reduction_factor=4, leave_out=left_out))
    else:
        for name in ("language", "task"):
            theirs.add_adapter(name, DoubleSeqBnConfig(reduction_factor=4))
    theirs.double()
    theirs.set_active_adapters(Stack("language", "task"))
    modules = {name: copy_of(theirs, ours, name) for name in ("language", "task")}
    ModuleStack(ours).set(list(modules.values()))

    weights = torch.randn(*_IDS.shape, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    pairs = [pair for name, module in modules.items() for pair in parameter_pairs(theirs, module, name)]
    for pair in pairs:
        for parameter in pair:
            parameter.requires_grad_(True)
    their_hidden = theirs.base_model(input_ids=_IDS, attention_mask=torch.ones_like(_IDS)).last_hidden_state
    our_hidden = ours.encode(_IDS, torch.ones_like(_IDS))
    their_gradients = torch.autograd.grad((their_hidden * weights).sum(), [parameter for _, parameter in pairs])
    our_gradients = torch.autograd.grad((our_hidden * weights).sum(), [parameter for parameter, _ in pairs])
    with torch.no_grad():
        differences = {
            "hidden": largest_difference(our_hidden, their_hidden),
            "gradients": max(largest_difference(a, b) for a, b in zip(our_gradients, their_gradients, strict=True)),
            "largest_gradient": max(float(gradient.abs().max()) for gradient in their_gradients),
            "parameters": sum(parameter.numel() for parameter, _ in pairs),
        }
        if configuration == "pfeiffer":
            # The library applies the inverse in its own heads only; here it is put before transformers' decoder.
            inverse = theirs.base_model.invertible_adapters["language"]
            decoder = theirs.get_output_embeddings()
            handle = decoder.register_forward_pre_hook(lambda _, arguments: (inverse(arguments[0], rev=True),))
            logits = theirs(input_ids=_IDS, attention_mask=torch.ones_like(_IDS)).logits
            handle.remove()
            differences["logits"] = largest_difference(ours.language_model_logits(our_hidden), logits)
        if golden is not None:
            golden.mkdir(parents=True, exist_ok=True)
            for name, module in modules.items():
                module.save(golden / f"{name}.safetensors")
            results = {"ids": _IDS, "weights": weights, "hidden": their_hidden.detach(), "logits": logits}
            results |= {f"gradient/{number}": gradient for number, gradient in enumerate(their_gradients)}
            # Tied tensors are saved once.
            results |= {f"base/{name}": parameter.detach().clone() for name, parameter in ours.named_parameters()}
            save_file({name: tensor.contiguous() for name, tensor in results.items()}, golden / "results.safetensors")
    return differences


def copy_of(theirs: Any, ours: TransferModel, name: str) -> Adapter:
    """Our module with the weights of one of the library's adapters."""
    blocks = find_blocks(ours)
    bottlenecks, placements = {}, {}
    for path, layer in bottleneck_layers(theirs, name):
        block = blocks[block_number(path)]
        if layer.original_ln_before:
            site, placement = (block.norm, "norm") if block.norm is not None else (block.path, "sum")
        else:
            site, placement = (block.attention if "attention" in path else block.feed_forward), "branch"
        down, up = layer.adapter_down[0], layer.adapter_up
        activation = "relu" if layer.original_ln_before else "silu"
        bottlenecks[site] = BottleneckAdapter(down.in_features, down.out_features, activation).double()
        placements[site] = placement
        _fill(bottlenecks[site], down, up)
    invertible, ends = None, None
    if name in theirs.base_model.invertible_adapters:
        block = theirs.base_model.invertible_adapters[name]
        invertible = InvertibleAdapter(SIZE["hidden_size"], (block.F[0].out_features, block.G[0].out_features), "relu")
        invertible.double()
        _fill(invertible.first, block.F[0], block.F[2])
        _fill(invertible.second, block.G[0], block.G[2])
        ends = Ends(blocks[0].path, output_embeddings(ours))
    language = "fao" if name == "language" else None
    header = ModuleHeader(kind="adapter", method="mad_x", base_model="m", base_hash="hash", language=language)
    return Adapter(header, bottlenecks, placements, invertible, ends)


def _fill(ours: BottleneckAdapter, down: nn.Linear, up: nn.Linear) -> None:
    with torch.no_grad():
        for parameter, theirs in bottleneck_pairs(ours, down, up):
            parameter.copy_(theirs)


def _same_model(theirs: nn.Module, family: str) -> Any:
    """Another model of the family with the same weights."""
    model = FAMILIES[family]().double().eval()
    model.load_state_dict(theirs.state_dict())
    return model


def main() -> None:
    options = parity_options(__doc__)
    rows = {}
    for family in FAMILIES:
        for configuration in CONFIGURATIONS:
            golden = options.golden if (family, configuration) == ("bert", "pfeiffer") else None
            row = rows[f"{family} {configuration}"] = compare(family, configuration, golden)
            print(f"{family:12} {configuration:9} " + "  ".join(f"{name} {value:.3g}" for name, value in row.items()))
    write_record({"versions": versions(), "rows": rows}, options.output)


if __name__ == "__main__":
    main()
