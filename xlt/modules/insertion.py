"""Inserts small networks after modules of a Transformer, by hooks; the modules themselves do not change."""

import weakref
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

PLACEMENTS = ("norm", "sum", "branch")

Network = Callable[[Tensor], Tensor]
"""A function of a hidden state, (..., hidden) -> (..., hidden)."""


class _Insertions:
    """The networks inserted after one module: those in `below` run first, each list in the order of insertion."""

    def __init__(self, placement: str) -> None:
        self.placement = placement
        self.below: list[Network] = []
        self.above: list[Network] = []
        self.handle: Any = None

    def __call__(self, module: nn.Module, arguments: tuple[Any, ...], output: Any) -> Any:
        if self.placement == "norm":
            total = arguments[0]
            for network in (*self.below, *self.above):
                total = _plus(total, network(output))
                output = module.forward(total)  # without the hooks
            return output
        first = output[0] if isinstance(output, tuple) else output
        for network in (*self.below, *self.above):
            first = _plus(first, network(first))
        return (first, *output[1:]) if isinstance(output, tuple) else first


_INSERTIONS: "weakref.WeakKeyDictionary[nn.Module, _Insertions]" = weakref.WeakKeyDictionary()


def insert(module: nn.Module, placement: str, network: Network, *, below: bool) -> Callable[[], None]:
    """Inserts a network after a module of a model.

    The placement determines how a network A changes the hidden state. Several networks run one after the other.

    - "norm": `module` is the layer normalisation N that ends a sub-layer. Its argument is the sum s = h + x of the
      sub-layer's output and input. Each network changes s to s + A(N(s)). This is thesis Eq. 2.8, in which the adapter
      reads N(s) and h is the residual.
    - "sum": `module` is a block whose output is such a sum s. Each network changes s to s + A(s).
    - "branch": `module` ends a sub-layer before the sum. Each network changes its output h to h + A(h).

    Args:
        module: any; its parameters and its class do not change.
        placement: "norm", "sum" or "branch".
        network: (..., hidden) -> (..., hidden), the term to add.
        below: whether it runs before all networks that were inserted with below=False, whatever the order of
            insertion. Language modules are below task modules.
    Returns:
        A function that removes the network; to be called once.
    Raises:
        ValueError: networks of another placement are inserted after this module.
    """
    insertions = _INSERTIONS.get(module)
    if insertions is None:
        insertions = _INSERTIONS[module] = _Insertions(placement)
        insertions.handle = module.register_forward_hook(insertions)
    if insertions.placement != placement:
        raise ValueError(
            f"{type(module).__name__} has inserted networks of placement {insertions.placement!r}, "
            f"so one of placement {placement!r} cannot be added: all must have the same"
        )
    networks = insertions.below if below else insertions.above
    networks.append(network)

    def remove() -> None:
        del networks[next(number for number, other in enumerate(networks) if other is network)]
        if not insertions.below and not insertions.above:
            insertions.handle.remove()
            _INSERTIONS.pop(module, None)

    return remove


def change_input(module: nn.Module, change: Callable[[Tensor], Tensor]) -> Callable[[], None]:
    """Makes a module receive `change(x)` in place of its first argument x.

    Returns:
        A function that ends this.
    """

    def hook(_: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        if arguments:
            return (change(arguments[0]), *arguments[1:]), keywords
        name, value = next(iter(keywords.items()))
        return arguments, {**keywords, name: change(value)}

    return module.register_forward_pre_hook(hook, with_kwargs=True).remove


def _plus(total: Tensor, term: Tensor) -> Tensor:
    """Adds in the dtype of `total`, the model's, even if the network's dtype is wider."""
    return total + (term.to(total.dtype) if term.element_size() > total.element_size() else term)
