"""A weight matrix in 4-bit NormalFloat (Dettmers et al., 2023), in the layout of `bitsandbytes`."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Nf4Weight:
    """A weight matrix in 4-bit NormalFloat, stored as `bitsandbytes` stores it.

    Entry n is code[nibble n] * scale[n // block]. With double quantisation the scales are stored in 8 bits:
    scale[b] = scale_code[scales[b]] * scale_scales[b // scale_block] + offset.

    Attributes:
        packed: (bytes,) uint8, two entries per byte in row-major order, the first in the upper four bits.
        shape: of the matrix.
        dtype: the dtype to which the matrix is dequantised.
        code: (16,) float32, the value of each nibble.
        scales: (blocks,) float32 scale of each block; with double quantisation uint8 indices into `scale_code`.
        block: number of entries in a block.
        scale_code: (256,) float32. This and the following attributes are None without double quantisation.
        scale_scales: (ceil(blocks / scale_block),) float32.
        scale_block: number of blocks that share a scale of scales.
        offset: () float32.
    """

    packed: Tensor
    shape: torch.Size
    dtype: torch.dtype
    code: Tensor
    scales: Tensor
    block: int
    scale_code: Tensor | None = None
    scale_scales: Tensor | None = None
    scale_block: int | None = None
    offset: Tensor | None = None

    @classmethod
    def of(cls, weight: Tensor, state: Any) -> "Nf4Weight":
        """Builds the weight from a bitsandbytes weight and its QuantState, without a copy.

        Raises:
            ValueError: the weight is quantised in another way than NF4.
        """
        if state.quant_type != "nf4":
            raise ValueError(f"the weight is quantised with quant_type={state.quant_type!r}: it must be 'nf4'")
        inner = state.state2 if state.nested else None
        return cls(
            packed=weight.detach().view(-1),
            shape=torch.Size(state.shape),
            dtype=state.dtype,
            code=state.code,
            scales=state.absmax,
            block=state.blocksize,
            scale_code=None if inner is None else inner.code,
            scale_scales=None if inner is None else inner.absmax,
            scale_block=None if inner is None else inner.blocksize,
            offset=None if inner is None else state.offset,
        )

    def block_scales(self) -> Tensor:
        """Returns the scale of each block, (blocks,) float32, dequantised where double quantisation was used."""
        if self.scale_code is None:
            return self.scales
        assert self.scale_scales is not None and self.scale_block is not None and self.offset is not None
        of_block = self.scale_scales.repeat_interleave(self.scale_block)[: len(self.scales)]
        return self.scale_code[self.scales.long()] * of_block + self.offset
