"""Training with tensors that have a shape but no memory, so that a ledger of a large model needs a small machine.

The engine, the methods and the models run as they are; torch computes shapes only. Numbers that come from data, such as
ids and masks, are computed beside them, because Python decides by them. What is decided by trained values alone is
replaced: which entries are chosen does not matter for memory, only how many.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import pkgutil
import sys
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import torch
import xlt_kernels.devices
import xlt_kernels.select
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
    unset_fake_temporarily,
)
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_iter, tree_map
from xlt_kernels import nf4

import xlt.methods
import xlt.models
import xlt.tasks
from benchmark.ledger import Ledger
from xlt.models.transfer import TransferModel, block_linear_layers

_MOST_KNOWN, _MOST_KNOWN_FLOATS = 2**16, 2**12  # numbers of a tensor whose values are computed
_BLOCK, _SCALES = 64, 256  # of bitsandbytes: weights that share a scale, and scales that share one


class HollowLedger(Ledger):
    """A ledger of tensors without memory; small integer tensors have values, which decide what code does."""

    def __init__(self, mode: FakeTensorMode) -> None:
        super().__init__()
        self._mode = mode
        self._known: dict[tuple[Any, ...], Tensor] = {}  # storage and place in it -> values

    def call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            return self._number(args[0])
        if func is torch.ops.aten.index.Tensor:
            args = (args[0], [place for index in args[1] for place in self._places(index)])
        tensors = [part for part in tree_iter((args, kwargs)) if isinstance(part, Tensor)]
        values = None
        if (tensors or _makes_numbers(func, args, kwargs)) and all(
            self._value(tensor) is not None for tensor in tensors
        ):
            with unset_fake_temporarily():
                values = func(*tree_map(self._with_value, args), **tree_map(self._with_value, kwargs))
        try:
            out = func(*args, **kwargs)
        except DynamicOutputShapeException:
            if values is None:
                raise
            out = tree_map(self._mode.from_tensor, values)
        if not func._schema.is_mutable and values is not None:
            for tensor, value in zip(tree_iter(out), tree_iter(values), strict=True):
                if isinstance(value, Tensor) and _is_small(value):
                    self._known[self._key(tensor)] = value
        elif values is None and func._schema.is_mutable and args and isinstance(args[0], Tensor):
            self._known.pop(self._key(args[0]), None)
        return out

    def _key(self, tensor: Tensor) -> tuple[Any, ...]:
        return self.add(tensor), tensor.storage_offset(), tuple(tensor.shape), tensor.stride()

    def _value(self, tensor: Tensor) -> Tensor | None:
        """Returns the values of a tensor; None if they are not computed."""
        if not isinstance(tensor, FakeTensor):
            return tensor if _is_small(tensor) else None
        if tensor.numel():
            return self._known.get(self._key(tensor)) if _is_small(tensor) else None
        with unset_fake_temporarily():
            return torch.empty(tensor.shape, dtype=tensor.dtype)

    def _with_value(self, part: Any) -> Any:
        return self._value(part) if isinstance(part, Tensor) else part

    def _number(self, tensor: Tensor) -> Any:
        if (value := self._value(tensor)) is None:
            return 1.0 if tensor.is_floating_point() else 1
        with unset_fake_temporarily():
            return value.item()

    def _places(self, index: Tensor | None) -> list[Tensor | None]:
        """Converts a mask to the places where it is true, one tensor for each of its dimensions."""
        if index is None or index.dtype != torch.bool:
            return [index]
        value = self._value(index)
        assert value is not None, f"code depends on values of a tensor {tuple(index.shape)} that are not computed"
        with unset_fake_temporarily():
            places = [part.clone() for part in value.nonzero().unbind(1)]
        found = [self._mode.from_tensor(part) for part in places]
        self._known.update(zip(map(self._key, found), places, strict=True))
        return [*found]


_COUNTED = {
    torch.ops.aten.arange.default,
    torch.ops.aten.arange.start,
    torch.ops.aten.arange.start_step,
    torch.ops.aten.randperm.generator,
    torch.ops.aten.randint.generator,
    torch.ops.aten.randint.low_generator,
}


_FILLED = {torch.ops.aten.zeros.default, torch.ops.aten.ones.default, torch.ops.aten.full.default}
_DRAWN = {torch.ops.aten.rand.generator}


def _makes_numbers(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Returns whether an operation makes a small integer tensor of no other tensor."""
    dtype = kwargs.get("dtype")
    integers = dtype is not None and not dtype.is_floating_point and not dtype.is_complex
    if func in _FILLED and integers:
        return math.prod(args[0]) <= _MOST_KNOWN
    return func in _COUNTED or (func in _DRAWN and math.prod(args[0]) <= _MOST_KNOWN_FLOATS)


def _is_small(value: Tensor) -> bool:
    return value.numel() <= (_MOST_KNOWN_FLOATS if value.is_floating_point() else _MOST_KNOWN)


@contextlib.contextmanager
def on_a_gpu(*, computes: bool) -> Iterator[None]:
    """Code inside does on CPU tensors what it would do on a GPU: Triton kernels, fused attention, torch's dropout.

    Args:
        computes: whether kernels run, interpreted (`TRITON_INTERPRET=1`), or else do nothing.
    """
    from triton.runtime.jit import KernelInterface

    swaps: list[tuple[Any, Any]] = [(xlt_kernels.devices.uses_triton, lambda _: True)]
    swaps.append((sys.modules["xlt.models.cpu_training"].fast_training, lambda _: _AsOnGpu()))
    swaps.append((sys.modules["xlt.models.cpu_training"].checkpoint_contexts, _checkpoint_contexts))
    with contextlib.ExitStack() as stack:
        for old, new in swaps:
            stack.enter_context(_replaced(old, new))
        buffers = dict(nf4._BUFFERS)  # of a training before, which must not meet those of this one
        nf4._BUFFERS.clear()
        stack.callback(lambda: (nf4._BUFFERS.clear(), nf4._BUFFERS.update(buffers)))
        if not computes:
            launch = KernelInterface.__getitem__
            KernelInterface.__getitem__ = lambda *_: lambda *_, **__: None
            stack.callback(setattr, KernelInterface, "__getitem__", launch)
        yield


@contextlib.contextmanager
def hollow() -> Iterator[HollowLedger]:
    """Tensors made inside have no memory, and the ledger counts what they would have on a GPU."""
    select = xlt_kernels.select
    swaps: list[tuple[Any, Any]] = [
        (select.select_at_random, _select_at_random),
        (select.select_largest, _select_largest),
        (select.select_most_changed, _select_most_changed),
    ]
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with contextlib.ExitStack() as stack:
        for old, new in swaps:
            stack.enter_context(_replaced(old, new))
        stack.enter_context(on_a_gpu(computes=False))
        move = nn.Module.to  # torch cannot move hollow parameters, and everything is on one device
        setattr(nn.Module, "to", lambda module, *_, **__: module)  # noqa: B010
        stack.callback(setattr, nn.Module, "to", move)
        stack.enter_context(mode)
        yield stack.enter_context(HollowLedger(mode))


@contextlib.contextmanager
def _replaced(old: Any, new: Any) -> Iterator[None]:
    """Replaces a function under its name in every module of xlt that has it."""
    for package in (xlt.methods, xlt.tasks, xlt.models, xlt_kernels):  # one that is imported inside would keep `new`
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            importlib.import_module(found.name)
    name = old.__name__
    places = [
        module
        for path, module in list(sys.modules.items())
        if path.split(".")[0] in ("xlt", "xlt_kernels") and vars(module).get(name) is old
    ]
    assert places
    for module in places:
        setattr(module, name, new)
    try:
        yield
    finally:
        for module in places:
            setattr(module, name, old)


class _AsOnGpu(TorchFunctionMode):
    """Dropout stores a mask of bytes, and attention no distribution, as torch's kernels on a GPU do."""

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is functional.dropout:
            return _dropout(*args, **kwargs)
        if func is functional.scaled_dot_product_attention:
            kwargs["dropout_p"] = 0.0
        return func(*args, **kwargs)


def _checkpoint_contexts() -> tuple[Any, Any]:
    return contextlib.nullcontext(), _AsOnGpu()


def _dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    return torch.native_dropout(input, p, training)[0] if training and p else input


def _select_at_random(shapes: Mapping[str, torch.Size], k: int, generator: Any) -> dict[str, Tensor]:
    total = sum(torch.Size(shape).numel() for shape in shapes.values())
    sizes = {name: round(k * torch.Size(shape).numel() / total) for name, shape in shapes.items()}
    return {name: torch.empty(size, dtype=torch.int64) for name, size in sizes.items()}


def _select_largest(values: Tensor, k: int, excluded: Tensor, generator: Any) -> Tensor:
    values.view(-1).index_fill_(0, excluded.long(), 0)
    return _select_most_changed({"": values}, {"": values}, k)[""]


def _select_most_changed(after: Mapping[str, Tensor], before: Mapping[str, Tensor], k: int) -> dict[str, Tensor]:
    total = sum(tensor.numel() for tensor in after.values())
    counts = torch.empty(9 * 2**15, dtype=torch.int64)  # the histograms, which are partly in the host's memory
    selection = {}
    for name, tensor in after.items():
        chunk = min(xlt_kernels.select._CUDA_CHUNK_ENTRIES, tensor.numel())
        buffer, chosen = torch.empty(chunk, dtype=torch.float32), torch.empty(chunk, dtype=torch.bool)
        selection[name] = torch.empty(round(k * tensor.numel() / total), dtype=torch.int64)
        del buffer, chosen
    del counts
    return selection


def pack_blocks(model: TransferModel) -> None:
    """Does to a hollow model what `quantise_blocks` does, in bytes: double-quantised NF4 layers of bitsandbytes."""
    import bitsandbytes

    for name, layer in block_linear_layers(model).items():
        path = name.removesuffix(".weight")
        parent, _, attribute = path.rpartition(".")
        entries, dtype = layer.weight.numel(), layer.weight.dtype
        with unset_fake_temporarily():
            four_bit = bitsandbytes.nn.Linear4bit(
                layer.in_features, layer.out_features, bias=False, compute_dtype=dtype, device="meta"
            )
        scales = -(-entries // _BLOCK)
        inner = SimpleNamespace(
            absmax=torch.empty(-(-scales // _SCALES)), code=torch.empty(256), blocksize=_SCALES, nested=False,
            offset=None, dtype=torch.float32,
        )  # fmt: skip
        state = bitsandbytes.functional.QuantState(
            absmax=torch.empty(scales, dtype=torch.uint8), shape=layer.weight.shape, code=torch.empty(16),
            blocksize=_BLOCK, quant_type="nf4", dtype=dtype, offset=torch.empty(()), state2=inner,
        )  # fmt: skip
        packed = nn.Parameter(torch.empty(-(-entries // 2), 1, dtype=torch.uint8), requires_grad=False)
        setattr(packed, "quant_state", state)  # noqa: B010
        four_bit.weight, four_bit.bias = packed, layer.bias
        four_bit.compute_type_is_set, four_bit.support_avx512bf16_for_cpu = True, False
        setattr(model.get_submodule(parent), attribute, four_bit)
