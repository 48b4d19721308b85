"""Bottleneck adapters beside those of the `adapters` library: the same weights, forward and gradients, in float64.

    python scripts/parity_adapters.py --output parity.json

`adapters` pins an older transformers: run this in an environment of its own, xlt installed first. Each row is the
largest absolute difference, over a stack of a language adapter with an invertible one and a task adapter. With
`--golden tests/data/adapters` it writes what the test suite compares with, where the library is not.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
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

from xlt.models.sublayers import find_blocks, output_embeddings
from xlt.models.transfer import TransferModel, split_pretrained
from xlt.modules import ModuleHeader, ModuleStack
from xlt.modules.adapter import Adapter, BottleneckAdapter, Ends, InvertibleAdapter

_SIZE: dict[str, Any] = {
    "vocab_size": 60,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "max_position_embeddings": 16,
}
_STILL = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
_DEBERTA: dict[str, Any] = {
    "relative_attention": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_buckets": 4,
    "max_relative_positions": 8,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
}
FAMILIES = {
    "bert": lambda: BertForMaskedLM(BertConfig(**_SIZE, **_STILL)),
    "xlm-roberta": lambda: XLMRobertaForMaskedLM(XLMRobertaConfig(**_SIZE, **_STILL)),
    "deberta-v2": lambda: DebertaV2ForMaskedLM(DebertaV2Config(**_SIZE, **_STILL, **_DEBERTA)),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**_SIZE)),
}
CONFIGURATIONS = ("pfeiffer", "houlsby")
_IDS = torch.tensor([[3, 14, 15, 9, 26], [5, 35, 8, 9, 7]])


def compare(family: str, configuration: str, golden: Path | None = None) -> dict[str, float]:
    """Largest absolute differences of representations, logits, and the gradients of both adapters' parameters.

    Args:
        golden: where the base model, the two modules, and the library's results are to be kept.
    """
    import adapters
    from adapters import DoubleSeqBnConfig, SeqBnConfig, SeqBnInvConfig
    from adapters.composition import Stack

    torch.manual_seed(0)
    theirs: Any = FAMILIES[family]().double().eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    ours = TransferModel(*split_pretrained(_twin(theirs, family)), "hash", family)

    adapters.init(theirs)
    dropped = [_SIZE["num_hidden_layers"] - 1]
    if configuration == "pfeiffer":
        theirs.add_adapter("language", SeqBnInvConfig(reduction_factor=2, leave_out=dropped))
        theirs.add_adapter("task", SeqBnConfig(reduction_factor=4, leave_out=dropped))
    else:
        for name in ("language", "task"):
            theirs.add_adapter(name, DoubleSeqBnConfig(reduction_factor=4))
    theirs.double()
    theirs.set_active_adapters(Stack("language", "task"))
    modules = {name: taken_from(theirs, ours, name) for name in ("language", "task")}
    ModuleStack(ours).set(list(modules.values()))

    weights = torch.randn(*_IDS.shape, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    pairs = [pair for name, module in modules.items() for pair in parameter_pairs(theirs, module, name)]
    for mine, other in pairs:
        mine.requires_grad_(True), other.requires_grad_(True)
    their_hidden = theirs.base_model(input_ids=_IDS, attention_mask=torch.ones_like(_IDS)).last_hidden_state
    our_hidden = ours.encode(_IDS, torch.ones_like(_IDS))
    their_gradients = torch.autograd.grad((their_hidden * weights).sum(), [other for _, other in pairs])
    our_gradients = torch.autograd.grad((our_hidden * weights).sum(), [mine for mine, _ in pairs])
    with torch.no_grad():
        found = {
            "hidden": _apart(our_hidden, their_hidden),
            "gradients": max(_apart(a, b) for a, b in zip(our_gradients, their_gradients, strict=True)),
            "largest_gradient": max(float(gradient.abs().max()) for gradient in their_gradients),
            "parameters": sum(mine.numel() for mine, _ in pairs),
        }
        if configuration == "pfeiffer":
            # theirs applies the inverse in its own heads only; here it is put before the stock head's decoder
            inverse = theirs.base_model.invertible_adapters["language"]
            decoder = theirs.get_output_embeddings()
            handle = decoder.register_forward_pre_hook(lambda _, arguments: (inverse(arguments[0], rev=True),))
            logits = theirs(input_ids=_IDS, attention_mask=torch.ones_like(_IDS)).logits
            handle.remove()
            found["logits"] = _apart(ours.language_model_logits(our_hidden), logits)
        if golden is not None:
            golden.mkdir(parents=True, exist_ok=True)
            for name, module in modules.items():
                module.save(golden / f"{name}.safetensors")
            results = {"ids": _IDS, "weights": weights, "hidden": their_hidden.detach(), "logits": logits}
            results |= {f"gradient/{number}": gradient for number, gradient in enumerate(their_gradients)}
            results |= {f"base/{name}": tensor for name, tensor in _twin_of(ours).items()}
            save_file({name: tensor.contiguous() for name, tensor in results.items()}, golden / "results.safetensors")
    return found


def _twin_of(ours: TransferModel) -> dict[str, Tensor]:
    """The base model's tensors, tied ones once."""
    return {name: parameter.detach().clone() for name, parameter in ours.named_parameters()}


def taken_from(theirs: Any, ours: TransferModel, name: str) -> Adapter:
    """A module with the library's weights of one adapter."""
    blocks = find_blocks(ours)
    bottlenecks, placements = {}, {}
    for path, layer in _their_layers(theirs, name):
        block = blocks[next(int(part) for part in path.split(".") if part.isdigit())]
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
        invertible = InvertibleAdapter(_SIZE["hidden_size"], (block.F[0].out_features, block.G[0].out_features), "relu")
        invertible.double()
        _fill(invertible.first, block.F[0], block.F[2])
        _fill(invertible.second, block.G[0], block.G[2])
        ends = Ends(blocks[0].path, output_embeddings(ours))
    language = "fao" if name == "language" else None
    header = ModuleHeader(kind="adapter", method="mad_x", base_model="m", base_hash="hash", language=language)
    return Adapter(header, bottlenecks, placements, invertible, ends)


def parameter_pairs(theirs: Any, module: Adapter, name: str) -> list[tuple[Tensor, Tensor]]:
    """Ours and theirs, of one adapter."""
    pairs: list[tuple[Tensor, Tensor]] = []
    for mine, (_, layer) in zip(module.adapters.values(), _their_layers(theirs, name), strict=True):
        pairs += _of(mine, layer.adapter_down[0], layer.adapter_up)
    if module.invertible is not None:
        block = theirs.base_model.invertible_adapters[name]
        pairs += _of(module.invertible.first, block.F[0], block.F[2])
        pairs += _of(module.invertible.second, block.G[0], block.G[2])
    return pairs


def _of(mine: BottleneckAdapter, down: nn.Linear, up: nn.Linear) -> list[tuple[Tensor, Tensor]]:
    return [
        (mine.down.weight, down.weight),
        (mine.down.bias, down.bias),
        (mine.up.weight, up.weight),
        (mine.up.bias, up.bias),
    ]


def _fill(mine: BottleneckAdapter, down: nn.Linear, up: nn.Linear) -> None:
    with torch.no_grad():
        for parameter, other in _of(mine, down, up):
            parameter.copy_(other)


def _their_layers(theirs: Any, name: str) -> list[tuple[str, Any]]:
    """Path and layer of each bottleneck, lowest block first, attention before feed-forward layer."""
    layers = [
        (path, module)
        for path, module in theirs.named_modules()
        if type(module).__name__ == "Adapter" and module.name == name
    ]
    return sorted(layers, key=lambda item: next(int(part) for part in item[0].split(".") if part.isdigit()))


def _twin(theirs: nn.Module, family: str) -> Any:
    twin = FAMILIES[family]().double().eval()
    twin.load_state_dict(theirs.state_dict())
    return twin


def _apart(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=None)
    parser.add_argument("--golden", type=Path, default=None, help="folder for what the test suite compares with")
    options = parser.parse_args()
    try:
        import adapters
    except ImportError:
        sys.exit(
            "parity_adapters.py: the adapters library is not installed; pip install adapters, in its own environment"
        )
    import transformers

    rows = {}
    for family in FAMILIES:
        for configuration in CONFIGURATIONS:
            golden = options.golden if (family, configuration) == ("bert", "pfeiffer") else None
            row = rows[f"{family} {configuration}"] = compare(family, configuration, golden)
            print(f"{family:12} {configuration:9} " + "  ".join(f"{name} {value:.3g}" for name, value in row.items()))
    versions = {"adapters": adapters.__version__, "transformers": transformers.__version__, "torch": torch.__version__}
    if options.output is not None:
        options.output.write_text(json.dumps({"versions": versions, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
