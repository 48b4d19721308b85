"""The stack of modules that are active in a model."""

import dataclasses
import weakref
from collections.abc import Callable, Sequence
from typing import Protocol

from torch import nn

Undo = Callable[[], None]
"""A function that removes one application of a module from the model, bit for bit."""


class StackableModule(Protocol):
    """What the stack needs of a module: a name for messages, a check, and writing. `ModuleArtefact` has them all."""

    @property
    def header(self) -> object: ...

    def check(self, model: nn.Module) -> None: ...

    def write_into(self, model: nn.Module) -> Undo: ...

    def write_over(self, model: nn.Module, undo: Undo) -> Undo | None: ...


@dataclasses.dataclass(frozen=True)
class _Layer:
    """One active module, and the function that removes it."""

    module: StackableModule
    undo: Undo


_LAYERS: "weakref.WeakKeyDictionary[nn.Module, list[_Layer]]" = weakref.WeakKeyDictionary()
"""One list per model, which all its ModuleStacks share, so that no caller undoes the writes of another."""


class ModuleStack:
    """The modules that are active in one model, in the order in which they were written.

    The stack applies and removes modules in any order and restores the model's weights bit for bit. Each module saves
    the values that it displaces, and removing the module puts these back; nothing is ever subtracted. To remove a
    module from the middle, the stack removes those above it and writes them again. The weights are therefore always
    those of the base model with the `active` modules written into it in their order. This order matters in the last
    bit where modules overlap, because each write rounds once, so `set` compares it too. `set` rewrites the modules
    from the first difference on: put first those that change least often.

    All ModuleStacks over one model object have the same modules. The stack does not notice when other code changes
    weights while modules are active (training, loading a state dict). Such a change stays where no active module
    writes; elsewhere it is lost as soon as that module is removed. A `copy.deepcopy` of the model is a new model for
    this class: its base weights include the active modules.

    Args:
        model: any module; the names in the modules are those of its `named_parameters`.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._layers = _LAYERS.setdefault(model, [])

    @property
    def active(self) -> tuple[StackableModule, ...]:
        """The active modules; the first is the one written first."""
        return tuple(layer.module for layer in self._layers)

    def apply(self, module: StackableModule) -> None:
        """Writes `module` on top of the active ones.

        Raises:
            ValueError: it does not fit the model or is already active; nothing is changed.
        """
        self.set((*self.active, module))

    def remove(self, module: StackableModule) -> None:
        """Removes `module`, wherever it is in the stack; the others keep their order.

        Raises:
            ValueError: it is not active.
        """
        if not any(active is module for active in self.active):
            raise ValueError(f"{module.header} is not active in this model, so it cannot be removed")
        self.set([active for active in self.active if active is not module])

    def set(self, modules: Sequence[StackableModule]) -> None:
        """Makes exactly `modules` active, in this order; does nothing if they already are.

        Raises:
            ValueError: one of them does not fit the model or is listed twice; nothing is changed.
        """
        if len({id(module) for module in modules}) < len(modules):
            raise ValueError(
                f"a module is listed twice, but can be active only once: {', '.join(str(m.header) for m in modules)}"
            )
        active = self.active
        unchanged = 0
        while unchanged < min(len(active), len(modules)) and active[unchanged] is modules[unchanged]:
            unchanged += 1
        active_ids = {id(module) for module in active}
        for module in modules[unchanged:]:
            if id(module) not in active_ids:
                module.check(self._model)
        replaces = len(active) > unchanged and len(modules) > unchanged
        while len(self._layers) > unchanged + replaces:
            self._undo_last()
        if replaces and self._replace_last(modules[unchanged]):
            unchanged += 1
        elif replaces:
            self._undo_last()
        for module in modules[unchanged:]:
            self._layers.append(_Layer(module, module.write_into(self._model)))

    def _undo_last(self) -> None:
        self._layers[-1].undo()
        self._layers.pop()

    def _replace_last(self, module: StackableModule) -> bool:
        """Writes `module` over the last one, if it can do so in one pass; returns whether it has done so."""
        try:
            undo = module.write_over(self._model, self._layers[-1].undo)
        except BaseException:
            self._layers.pop()
            raise
        if undo is not None:
            self._layers[-1] = _Layer(module, undo)
        return undo is not None
