"""4-bit base models, whose blocks have linear layers in NF4 (Dettmers et al., 2023; thesis §7.2.3)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from xlt_kernels.nf4 import dequantise
from xlt_kernels.nf4_weight import Nf4Weight

from xlt.errors import UsageError
from xlt.models.transfer import TransferModel, block_linear_layers, is_transposed


def quantise_blocks(model: TransferModel) -> None:
    """Replaces the blocks' linear layers by bitsandbytes' 4-bit layers with double quantisation.

    Such a layer computes with its weight dequantised to the original dtype.

    Args:
        model: changed in place; its `base_hash` gets the suffix "-nf4".
    Raises:
        UsageError: bitsandbytes is not installed, or a layer cannot be quantised.
    """
    bitsandbytes = _bitsandbytes()
    for name, layer in _layers(model).items():
        path = name.removesuffix(".weight")
        parent, _, attribute = path.rpartition(".")
        weight, device = layer.weight.detach(), layer.weight.device
        four_bit = bitsandbytes.nn.Linear4bit(
            layer.in_features,
            layer.out_features,
            bias=layer.bias is not None,
            compute_dtype=weight.dtype,
            compress_statistics=True,
            quant_type="nf4",
            device="meta",
        )
        four_bit.weight = bitsandbytes.nn.Params4bit(
            weight, requires_grad=False, compress_statistics=True, quant_type="nf4", module=four_bit
        )
        four_bit.bias = layer.bias
        # On a CPU with bfloat16 the layer would reorder its packed weight in place at the first evaluation.
        four_bit.support_avx512bf16_for_cpu = False
        setattr(model.get_submodule(parent), attribute, four_bit.to(device))
    model.base_hash += "-nf4"


def round_to_nf4(model: TransferModel) -> None:
    """Rounds the weights of the blocks' linear layers to their NF4 values, but stores them dense.

    So modules can be written into them, which 4-bit layers do not allow.

    Args:
        model: changed in place; its `base_hash` gets the suffix "-nf4".
    Raises:
        UsageError: bitsandbytes is not installed, or a layer cannot be quantised.
    """
    functional: Any = _bitsandbytes().functional
    with torch.no_grad():
        for layer in _layers(model).values():
            packed, state = functional.quantize_4bit(layer.weight, quant_type="nf4", compress_statistics=True)
            # Our own kernel dequantises, because on a CPU bitsandbytes 0.50 is wrong for rows shorter than 64 entries.
            dense = torch.empty_like(layer.weight)
            layer.weight = nn.Parameter(dequantise(Nf4Weight.of(packed, state), out=dense))
    model.base_hash += "-nf4"


def check_quantisable(model: TransferModel) -> None:
    """Refuses a model whose linear layers 4-bit layers cannot replace.

    Raises:
        UsageError: a layer's weight is transposed.
    """
    for name, layer in block_linear_layers(model).items():
        if is_transposed(layer):
            raise UsageError(
                f"model.quantise=nf4: model {model.base_name} stores the weight {name} transposed, as GPT-2 does, "
                "which 4-bit layers cannot; leave model.quantise out"
            )


def _layers(model: TransferModel) -> dict[str, Any]:
    check_quantisable(model)
    return block_linear_layers(model)


def _bitsandbytes() -> Any:
    try:
        import bitsandbytes
        import bitsandbytes.functional
        import bitsandbytes.nn
    except ImportError as error:
        raise UsageError(
            "model.quantise=nf4: the package bitsandbytes is not installed; run pip install 'xlt[4bit]'"
        ) from error
    return bitsandbytes
