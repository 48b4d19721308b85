"""Inserting small networks into a Transformer, behind modules that stay what they are."""

import weakref
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

PLACEMENTS = ("norm", "sum", "branch")

Added = Callable[[Tensor], Tensor]


class _Standing:
    """The networks behind one module: `below` before `above`, each in the order in which it came."""

    def __init__(self, placement: str) -> None:
        self.placement = placement
        self.below: list[Added] = []
        self.above: list[Added] = []
        self.handle: Any = None

    def __call__(self, module: nn.Module, arguments: tuple[Any, ...], output: Any) -> Any:
        if self.placement == "norm":
            total = arguments[0]
            for added in (*self.below, *self.above):
                total = _plus(total, added(output))
                output = module.forward(total)  # without the hooks
            return output
        first = output[0] if isinstance(output, tuple) else output
        for added in (*self.below, *self.above):
            first = _plus(first, added(first))
        return (first, *output[1:]) if isinstance(output, tuple) else first


_STANDING: "weakref.WeakKeyDictionary[nn.Module, _Standing]" = weakref.WeakKeyDictionary()


def insert(module: nn.Module, placement: str, added: Added, *, below: bool) -> Callable[[], None]:
    """Puts a network behind a module of a model.

    What a network A adds depends on the placement; several are applied one after the other:

    - "norm": `module` is the layer normalisation that ends a sub-layer, N(s) of the sum s = h + x of the sub-layer's
      output and its input. Each network makes s <- s + A(N(s)), which is Eq. 2.8: N is read, h is the residual.
    - "sum": `module` is a block that ends in such a sum: s <- s + A(s).
    - "branch": `module` ends a sub-layer before the sum: h <- h + A(h).

    Args:
        module: any; its own parameters and its class are left alone.
        placement: one of the three.
        added: (..., hidden) -> what is added.
        below: before those that stand above, also where these came earlier.
    Returns:
        What takes it out again; to be called once.
    Raises:
        ValueError: another placement is in use at the module.
    """
    standing = _STANDING.get(module)
    if standing is None:
        standing = _STANDING[module] = _Standing(placement)
        standing.handle = module.register_forward_hook(standing)
    if standing.placement != placement:
        raise ValueError(f"{type(module).__name__}: has networks of placement {standing.placement} already")
    row = standing.below if below else standing.above
    row.append(added)

    def take_out() -> None:
        del row[next(number for number, other in enumerate(row) if other is added)]
        if not standing.below and not standing.above:
            standing.handle.remove()
            _STANDING.pop(module, None)

    return take_out


def before(module: nn.Module, change: Callable[[Tensor], Tensor]) -> Callable[[], None]:
    """Changes the first argument of a module: `change(x)` in place of x. Returns what takes that out again."""

    def hook(_: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        if arguments:
            return (change(arguments[0]), *arguments[1:]), named
        name, value = next(iter(named.items()))
        return arguments, {**named, name: change(value)}

    return module.register_forward_pre_hook(hook, with_kwargs=True).remove


def _plus(total: Tensor, added: Tensor) -> Tensor:
    """The sum in the model's dtype, whatever wider one the network has."""
    return total + (added.to(total.dtype) if added.element_size() > total.element_size() else added)
