"""The low-rank deltas of the features of a batch's examples, added to what the linear layers compute."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from xlt.models.transfer import is_transposed, stored_shape

OFF = -1
"""In place of the number of a feature's value: the example has none, or it is turned off."""


@dataclass(frozen=True)
class Site:
    """A linear layer with deltas.

    Attributes:
        weight: its name in the model.
        layer: the layer.
        inputs, outputs: its sizes.
        transposed: whether the weight is (in, out), as in the GPT-2 family.
    """

    weight: str
    layer: Any
    inputs: int
    outputs: int
    transposed: bool

    @classmethod
    def of(cls, weight: str, layer: Any) -> Site:
        """Describes a layer, whose weight may be packed in 4 bits."""
        transposed, shape = is_transposed(layer), stored_shape(layer)
        inputs, outputs = shape if transposed else reversed(shape)
        return cls(weight, layer, inputs, outputs, transposed)

    def shapes(self, rank: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Returns the shapes of A, (rank, in), and of B, (out, rank)."""
        return (rank, self.inputs), (self.outputs, rank)


def split_by_layer(flat: Tensor, sites: Sequence[Site], rank: int) -> list[Tensor]:
    """Splits the flat factors of a value, (entries,), into A of layer 0, B of layer 0, A of layer 1, and so on.

    The parts are views, (rank, in) and (out, rank); one operation joins their gradients in the backward pass.
    """
    shapes = [shape for site in sites for shape in site.shapes(rank)]
    parts = flat.split([rows * columns for rows, columns in shapes])
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]


class ActiveDeltas:
    """The deltas of the examples in the following forward passes.

    If each feature has one value in the batch, the factors of all features are joined, and both products are as those
    of LoRA with the sum of their ranks. Otherwise each example gets its own joined factors, and the products are
    batched. In both cases the weight of an example, W0 + sum_i B_i A_i, is never formed.

    Args:
        numbers: (examples, features) int64, the number of each example's value, or `OFF`. If there is one row, it holds
            for all examples of a batch, however many they are.
        factors: returns the factors of all layers of the value with a number, see `split_by_layer`.
    """

    def __init__(self, numbers: Tensor, factors: Callable[[int], list[Tensor]]) -> None:
        self._factors: list[list[list[Tensor]]] = []
        selections: list[Tensor] = []
        varies = False
        for column in numbers.T:
            used = [number for number in column.unique().tolist() if number != OFF]
            if used:
                self._factors.append([factors(number) for number in used])
                wide = self._factors[-1][0][0]
                selection = column[:, None] == torch.tensor(used)
                varies = varies or not bool(selection.all())
                selections.append(selection.to(wide))
        self._examples = len(numbers) if varies else None
        several = any(len(values) > 1 for values in self._factors)
        # (examples, values) of each feature, 1 where a value is on for an example; for joined factors not needed.
        self._selections = selections if several else None
        # (examples, sum of ranks), 1 where a feature is on for an example; for joined factors, if some are off.
        self._mask: Tensor | None = None
        if self._examples is not None and not several:
            ranks = [len(values[0][0]) for values in self._factors]
            self._mask = torch.cat([one.expand(-1, r) for one, r in zip(selections, ranks, strict=True)], 1)

    def add_to(self, output: Tensor, x: Tensor, number: int) -> Tensor:
        """Adds to what a layer computes the products of the deltas with its input.

        The products are in the dtype of the factors, or in that of autocast; the sum is rounded to that of the output.

        Args:
            output: (examples, ..., out).
            x: (examples, ..., in), the input of the layer.
            number: of the layer.
        Returns:
            (examples, ..., out).
        Raises:
            ValueError: the input has not as many rows as there are examples.
        """
        if not self._factors:
            return output
        if self._examples is not None and x.shape[0] != self._examples:
            raise ValueError(f"a layer's input has {x.shape[0]} rows, but the batch has {self._examples} examples")
        if not torch.is_autocast_enabled(x.device.type):
            x = x.to(self._factors[0][0][0].dtype)
        if self._selections is not None:
            return self._add_by_example(output, x, number, self._selections)
        a = torch.cat([values[0][2 * number] for values in self._factors])
        b = torch.cat([values[0][2 * number + 1] for values in self._factors], 1)
        inner = functional.linear(x, a)
        if self._mask is not None:
            inner = inner.view(len(x), -1, len(a)) * self._mask[:, None].to(inner.dtype)
        flat = output.reshape(-1, output.shape[-1]).to(inner.dtype)
        return torch.addmm(flat, inner.reshape(-1, len(a)), b.t()).view(output.shape).to(output.dtype)

    def _add_by_example(self, output: Tensor, x: Tensor, number: int, selections: Sequence[Tensor]) -> Tensor:
        """Does so with the factors of each example: A (examples, ranks, in), B (examples, out, ranks).

        They are gathered by a product with the selection, so that the backward pass sums their gradients in a fixed
        order. An example has A = 0 for a feature that is off.
        """
        count = len(selections[0])

        def gathered(side: int) -> list[Tensor]:
            parts = []
            for values, selection in zip(self._factors, selections, strict=True):
                stacked = torch.stack([one[2 * number + side].reshape(-1) for one in values])
                parts.append((selection @ stacked).view(count, *values[0][2 * number + side].shape))
            return parts

        a, b = torch.cat(gathered(0), 1), torch.cat(gathered(1), 2)
        inner = torch.bmm(x.reshape(count, -1, x.shape[-1]), a.transpose(1, 2))
        flat = output.reshape(count, -1, output.shape[-1]).to(inner.dtype)
        return torch.baddbmm(flat, inner, b.transpose(1, 2)).view(output.shape).to(output.dtype)
