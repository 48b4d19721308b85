"""A second device for machines that have none: computed on the CPU, it refuses to meet the CPU's tensors.

`second_device()` registers torch's PrivateUse1 as a Python backend and returns its device. A tensor there is a wrapper
whose `device` says `second_device:0`. `.to(device)`, `.cpu()` and factories with `device=` cross over. Every other
operation checks what CUDA checks: all tensors are on one device, but for CPU tensors without dimensions in pointwise
operations and CPU indices of a tensor there; a generator is of that device; `numpy()` needs a copy on the CPU. Backward
runs in a thread of the device, as on a GPU. `tests/gpu/test_crossing.py` holds for CUDA and for this device.

autograd counts the devices at a process's first backward, so the device must be registered before it: a test that
needs it has a process of its own. Kernels take their plain-torch definition there, as Triton does not know the device.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import backend_registration
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

NAME = "second_device"

_aten = torch.ops.aten
_COPIES = {_aten.copy_, _aten._to_copy}
_INDEXING = {_aten.index, _aten.index_put, _aten.index_put_, _aten._index_put_impl_}
_SCALARS = {_aten.masked_fill, _aten.masked_fill_, _aten.fill, _aten.fill_}  # not tagged as pointwise
# The rest of the factories are made of these; these would change an empty tensor's shape in place.
_FACTORIES = "empty.memory_format empty_strided arange arange.start arange.start_step eye eye.m linspace"
# What autocast computes in half and in single precision on CUDA, as far as the tests use it.
_LOWERED = "linear matmul mm bmm addmm baddbmm addbmm einsum scaled_dot_product_attention"
_RAISED = (
    "softmax.int log_softmax.int layer_norm nll_loss cross_entropy_loss pow.Tensor_Scalar exp log sum sum.dim_IntList"
)

_LIBRARIES: list[torch.library.Library] = []  # a registration ends with its library


class DeviceTensor(Tensor):
    """A tensor on the second device; `raw`, on the CPU, holds its values."""

    raw: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, raw: Tensor) -> DeviceTensor:
        made = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, raw.size(), raw.stride(), raw.storage_offset(), dtype=raw.dtype, device=torch.device(NAME, 0)
        )
        made.raw = raw
        return made

    @property
    def data(self) -> Tensor:  # type: ignore[override]
        return self.detach()

    @data.setter
    def data(self, value: DeviceTensor) -> None:
        Tensor.data.__set__(self, value)  # type: ignore[attr-defined]
        self.raw = value.raw

    def tolist(self) -> Any:
        return self.detach().cpu().tolist()

    def __repr__(self) -> str:  # type: ignore[override]
        return f"{NAME}:{self.raw!r}"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        leaves, form = tree_flatten((args, kwargs or {}))
        _check(func, args, leaves)
        args_on_cpu, kwargs_on_cpu = tree_unflatten([_raw(leaf) for leaf in leaves], form)
        target = kwargs_on_cpu.get("device")
        to_cpu = target is not None and torch.device(target).type != NAME
        if target is not None:
            kwargs_on_cpu["device"] = torch.device("cpu")
        found = func(*args_on_cpu, **kwargs_on_cpu)
        if to_cpu or (func.overloadpacket is _aten.copy_ and not isinstance(args[0], DeviceTensor)):
            return found
        wrappers = {id(leaf.raw): leaf for leaf in leaves if isinstance(leaf, DeviceTensor)}
        return tree_map(lambda one: _wrapped(one, wrappers) if isinstance(one, Tensor) else one, found)


def _raw(leaf: Any) -> Any:
    return leaf.raw if isinstance(leaf, DeviceTensor) else leaf


def _wrapped(raw: Tensor, wrappers: dict[int, DeviceTensor]) -> DeviceTensor:
    made = wrappers.get(id(raw))  # of an operation in place
    if made is None:
        return DeviceTensor(raw)
    if made.shape != raw.shape or made.stride() != raw.stride():
        raise NotImplementedError("the second device changes no shape in place")
    return made


def _check(func: Any, args: Any, leaves: list[Any]) -> None:
    """Raises RuntimeError where CUDA would: tensors of two devices, or the CPU's generator."""
    packet = func.overloadpacket
    if any(isinstance(leaf, torch.Generator) for leaf in leaves):
        raise RuntimeError(f"{func}: expected a generator of the device {NAME}:0, found the CPU's")
    strangers = [leaf for leaf in leaves if isinstance(leaf, Tensor) and not isinstance(leaf, DeviceTensor)]
    if packet in _COPIES:
        return
    if packet in _INDEXING and isinstance(args[0], DeviceTensor):
        strangers = [one for one in strangers if len(args) > 2 and one is args[2] and one.dim()]  # the values
    elif torch.Tag.pointwise in func.tags or packet in _SCALARS or packet.__name__.startswith("_foreach"):
        strangers = [one for one in strangers if one.dim() or (one is args[0] and packet.__name__.endswith("_"))]
    if strangers:
        shape = tuple(strangers[0].shape)
        raise RuntimeError(f"{func}: expected all tensors on device {NAME}:0, found one of shape {shape} on the CPU")


class _Backend(backend_registration._DummyBackendModule):  # type: ignore[misc]
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


@functools.cache
def second_device() -> torch.device:
    """Registers the device in this process, once, and returns it."""
    backend_registration._setup_privateuseone_for_python_backend(NAME, _Backend())  # type: ignore[no-untyped-call]
    torch.__future__.set_swap_module_params_on_conversion(True)  # module.to() keeps its parameters, tied ones too
    _LIBRARIES.append(torch.library.Library("aten", "IMPL"))
    for name in _FACTORIES.split():
        _LIBRARIES[0].impl(name, functools.partial(_create, _operation(name)), "PrivateUse1")
    _LIBRARIES[0].impl("_copy_from", _copy_from, "PrivateUse1")  # torch.tensor(..., device=) copies below the wrapper
    _LIBRARIES.append(torch.library.Library("_", "IMPL"))
    _LIBRARIES[1].fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    for names, dtype in ((_LOWERED, None), (_RAISED, torch.float32)):
        for name in names.split():
            _LIBRARIES[0].impl(name, functools.partial(_cast, _operation(name), dtype), "AutocastPrivateUse1")
    return torch.device(NAME, 0)


def _operation(name: str) -> Any:
    packet, _, overload = name.partition(".")
    return getattr(getattr(_aten, packet), overload or "default")


def _create(
    operation: Callable[..., Tensor], *args: Any, device: Any = None, pin_memory: Any = None, **kwargs: Any
) -> Tensor:
    return DeviceTensor(operation(*args, device="cpu", **kwargs))


def _copy_from(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
    _raw(target).copy_(_raw(source))
    return target


def _cast(operation: Callable[..., Any], dtype: torch.dtype | None, *args: Any, **kwargs: Any) -> Any:
    wanted = dtype or torch.get_autocast_dtype(NAME)

    def cast(one: Any) -> Any:
        lower = isinstance(one, Tensor) and one.is_floating_point() and one.dtype not in (wanted, torch.float64)
        return one.to(wanted) if lower else one

    with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)):
        return operation(*tree_map(cast, args), **kwargs)
