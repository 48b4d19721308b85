"""Small models, adapters and changed files for the tests of AdapterHub's format."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    BertConfig,
    BertForMaskedLM,
    LlamaConfig,
    LlamaForCausalLM,
    XLMRobertaConfig,
    XLMRobertaForMaskedLM,
)

from xlt.models.sublayers import find_blocks, output_embeddings
from xlt.models.transfer import TransferModel, split_pretrained
from xlt.modules import ModuleHeader, read_adapter_hub, write_adapter_hub
from xlt.modules.adapter import Adapter, BottleneckAdapter, Ends, InvertibleAdapter

GOLDEN = Path(__file__).parents[2] / "data" / "adapters_hub"
SIZE: dict[str, Any] = {
    "vocab_size": 20, "hidden_size": 8, "intermediate_size": 12, "max_position_embeddings": 8,
    "num_hidden_layers": 2, "num_attention_heads": 2,
}  # fmt: skip
FAMILIES: dict[str, Callable[..., Any]] = {
    "bert": lambda **size: BertForMaskedLM(BertConfig(**{**SIZE, **size}, type_vocab_size=1)),
    "xlm-roberta": lambda **size: XLMRobertaForMaskedLM(XLMRobertaConfig(**{**SIZE, **size})),
    "llama": lambda **size: LlamaForCausalLM(LlamaConfig(**{**SIZE, **size})),
}
DOWN = "bert.encoder.layer.0.output.adapters.est.adapter_down.0.weight"


def tiny_model(family: str = "bert", **size: int) -> TransferModel:
    """Returns a random model of a family, in evaluation mode; `size` changes entries of SIZE."""
    return TransferModel(*split_pretrained(FAMILIES[family](**size)), "hash", family).eval()


def read(folder: Path, model: TransferModel | None = None, **changes: Any) -> Adapter:
    """Reads an adapter for a model, by default a tiny BERT; `changes` replace arguments of `read_adapter_hub`."""
    model = model or tiny_model()
    known = {"base_model": "tiny", "base_hash": "hash", "output": output_embeddings(model)}
    blocks = changes.pop("blocks", None) or find_blocks(model)
    return read_adapter_hub(folder, model=model, blocks=blocks, **{**known, **changes})


def write(module: Adapter, folder: Path, model: TransferModel, **changes: Any) -> None:
    """Writes an adapter under the name est; `changes` replace arguments of `write_adapter_hub`."""
    write_adapter_hub(module, folder, model=model, blocks=find_blocks(model), **{"name": "est", **changes})


def networks(module: Adapter) -> list[Any]:
    """Returns all bottlenecks of an adapter, and its invertible adapter if there is one."""
    return [*module.adapters.values(), *([module.invertible] if module.invertible is not None else [])]


def make_module(
    model: TransferModel,
    where: str = "feed_forward",
    sizes: tuple[int, ...] = (3, 3),
    inner: tuple[int, int] | None = None,
    activation: str = "relu",
    **header: Any,
) -> Adapter:
    """Returns an adapter with a bottleneck of the given size in each block; a block with size 0 has none."""
    torch.manual_seed(1)
    blocks = find_blocks(model)
    adapters, placements = {}, {}
    for block, size in zip(blocks, sizes, strict=True):
        behind = (block.norm or block.path, "norm" if block.norm else "sum")
        both = [(block.attention, "branch"), (block.feed_forward, "branch")]
        for path, placement in [behind] if where == "feed_forward" else both:
            if size:
                adapters[path] = BottleneckAdapter(model.hidden_size, size, activation)
                placements[path] = placement
    invertible = None if inner is None else InvertibleAdapter(model.hidden_size, inner, activation)
    ends = None if inner is None else Ends(blocks[0].path, output_embeddings(model))
    known = {"kind": "adapter", "method": "mad_x", "base_model": "tiny", "base_hash": "hash"}
    return Adapter(ModuleHeader(**{**known, **header}), adapters, placements, invertible, ends)


def is_same(a: Adapter, b: Adapter) -> bool:
    """Returns whether layouts, and names, dtypes and bits of all tensors, are equal."""
    (layout, tensors), (other_layout, others) = a.to_tensors(None), b.to_tensors(None)
    return (
        layout == other_layout
        and tensors.keys() == others.keys()
        and all(
            others[name].dtype == tensor.dtype and torch.equal(others[name], tensor) for name, tensor in tensors.items()
        )
    )


def change_config(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Changes the config of an adapter in place with a function."""
    content = json.loads((folder / "adapter_config.json").read_text())
    change(content)
    (folder / "adapter_config.json").write_text(json.dumps(content))


def change_tensors(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    """Changes the tensors of an adapter in place with a function."""
    tensors = load_file(folder / "adapter.safetensors")
    change(tensors)
    save_file(tensors, folder / "adapter.safetensors")


def convert_to_pickle(folder: Path, names: Callable[[str], str] = str, zipped: bool = True) -> None:
    """Replaces the safetensors file by a pickle with renamed tensors; `zipped` says in which of torch's formats."""
    tensors = {names(name): tensor for name, tensor in load_file(folder / "adapter.safetensors").items()}
    (folder / "adapter.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_adapter.bin", _use_new_zipfile_serialization=zipped)


def convert_to_early_config(content: dict[str, Any]) -> None:
    """Changes a config in place to what the library's first versions wrote."""
    for key in ("version", "model_class"):
        del content[key]
    content["type"] = "text_lang"
    content["config"] = {
        "adapter_residual_before_ln": False, "attention_type": "sent-lvl-dynamic", "leave_out": [1],
        "invertible_adapter": {"block_type": "nice", "non_linearity": "relu", "reduction_factor": 2},
        "ln_after": False, "ln_before": False, "mh_adapter": False, "new_attention_norm": False,
        "non_linearity": "relu", "original_ln_after": True, "original_ln_before": True, "output_adapter": True,
        "reduction_factor": 2, "residual_before_ln": True,
    }  # fmt: skip
