"""The modules that are in a model at the moment, in the order in which they were written into it."""

import dataclasses
import weakref
from collections.abc import Sequence

from torch import nn

from xlt.modules.artefact import ModuleArtefact, Undo


@dataclasses.dataclass(frozen=True)
class _Applied:
    module: ModuleArtefact
    undo: Undo


_APPLIED: "weakref.WeakKeyDictionary[nn.Module, list[_Applied]]" = weakref.WeakKeyDictionary()
"""One list per model, shared by every ModuleStack over it, so that two callers cannot undo each other's writes."""


class ModuleStack:
    """Applies and removes modules of one model, in any order, restoring its weights bit for bit.

    Each module saves the values it displaces; removing it puts them back, nothing is ever subtracted. A module is
    removed from the middle by unwinding those above it and writing them again, so the model's weights are always
    those of the base with the `active` modules written into it in their order. With overlapping modules that order
    shows in the last bit (each write rounds once), so it is part of what `set` compares. Put first what changes
    least often: `set` unwinds only from the first difference on.

    Every ModuleStack over the same model object sees the same modules. What is not seen: a change of the weights
    by somebody else while modules are active (training, loading a state dict). It is kept where no active module
    writes, and lost where one does, as soon as that module is removed. A `copy.deepcopy` of the model is a new
    model to this class, whose base weights are the sum.

    Args:
        model: any module; the names in the modules are those of its `named_parameters`.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._applied = _APPLIED.setdefault(model, [])

    @property
    def active(self) -> tuple[ModuleArtefact, ...]:
        """The modules in the model, the first written first."""
        return tuple(applied.module for applied in self._applied)

    def apply(self, module: ModuleArtefact) -> None:
        """Writes `module` on top of the active ones.

        Raises:
            ValueError: it does not fit the model, or is active already; nothing is changed.
        """
        self.set((*self.active, module))

    def remove(self, module: ModuleArtefact) -> None:
        """Takes `module` out, wherever it is in the stack; the others stay in their order.

        Raises:
            ValueError: it is not active.
        """
        if not any(active is module for active in self.active):
            raise ValueError(f"{module.header} is not active in this model")
        self.set([active for active in self.active if active is not module])

    def set(self, modules: Sequence[ModuleArtefact]) -> None:
        """Makes `modules`, in this order, the active ones. Does nothing if they are.

        Raises:
            ValueError: one of them does not fit the model, or is named twice; nothing is changed.
        """
        if len({id(module) for module in modules}) < len(modules):
            raise ValueError(f"a module can be active once only: {', '.join(str(m.header) for m in modules)}")
        active = self.active
        kept = 0
        while kept < min(len(active), len(modules)) and active[kept] is modules[kept]:
            kept += 1
        known = {id(module) for module in active}
        for module in modules[kept:]:
            if id(module) not in known:
                module.check(self._model)
        while len(self._applied) > kept:
            self._applied[-1].undo()
            self._applied.pop()
        for module in modules[kept:]:
            self._applied.append(_Applied(module, module.write_into(self._model)))
