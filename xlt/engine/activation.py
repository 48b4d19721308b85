"""The source languages' modules during training: the batch's language is the active one (thesis §3.3.3, §4.4.4)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from xlt_kernels.delta_write import gather_entries

from xlt.methods.method import Method
from xlt.models.transfer import TransferModel
from xlt.modules import ModuleArtefact, ModuleStack, SparseDelta

# What LT-SFT's dense phase needs and its sparse phase does not: the dense gradient, Adam's two moments and theta0.
_MOST_COPIES = 4


class TeacherModules:
    """The modules of a frozen teacher: those it has of the task, over the module of the batch's language.

    Args:
        teacher: the base model, no module applied.
        modules: by ISO 639-3 code; empty for a teacher without language adaptation.
        task: module of the task; None for a teacher that only knows the languages.
    """

    def __init__(
        self, teacher: TransferModel, modules: Mapping[str, ModuleArtefact], task: ModuleArtefact | None
    ) -> None:
        self._stack = ModuleStack(teacher)
        self._modules = modules
        self._task = () if task is None else (task,)
        self._stack.set([*self._task])

    def enter(self, language: str) -> None:
        """Has the teacher know `language`; costs nothing where it does already."""
        if self._modules:
            self._stack.set([self._modules[language], *self._task])


class LanguageActivation:
    """Brings the model's weights up to date, with the batch's language in them, before they are used.

    The weights are then the base plus the language, and what the method trains on top of that. With one language its
    module becomes part of the base for the whole run and costs nothing. With several there are two ways to switch,
    which give the same weights bit for bit:

    - By copies, where the phase trains none of the tensors that the modules change: each language has its own copy of
      those tensors, and switching exchanges their storage; no weight is moved. At most four languages.
    - In place, where the optimiser steps on the weights themselves, or there are more languages: the module is written
      before the forward pass and taken out after the backward pass, so that the optimiser sees the base. That reads
      and writes each of its entries twice.

    Where a method's entries may change within a phase, the language is written over them, in place.

    Args:
        model: the base model, no module applied.
        modules: by ISO 639-3 code; empty for training without language adaptation.
        languages: of all sources, those for validation included.
        teacher: modules that follow the language in a teacher's weights.
    Raises:
        ValueError: a language has no module though others have.
    """

    def __init__(
        self,
        model: TransferModel,
        modules: Mapping[str, ModuleArtefact],
        languages: list[str],
        teacher: TeacherModules | None = None,
    ) -> None:
        missing = [language for language in languages if modules and language not in modules]
        if missing:
            raise ValueError(f"language_modules: no module for source language {', '.join(missing)}")
        self._model = model
        self._stack = ModuleStack(model)
        self._teacher = teacher
        wanted = dict.fromkeys(languages) if modules else {}
        self._fixed = len(wanted) <= 1
        self._modules = {language: modules[language] for language in wanted}
        self._weights: dict[str, Tensor] = {}
        self._copies: dict[str, dict[str, Tensor]] = {}
        self._base: dict[str, Tensor] = {}
        self._under: dict[str, dict[str, Tensor]] = {}
        if self._fixed:
            self._stack.set(list(self._modules.values()))

    def begin(self, method: Method) -> None:
        """Starts a phase for which `method` is attached, nothing written yet."""
        self._method = method
        written = None if self._fixed else method.written_entries()
        if written is not None:
            self._prepare(written)

    def enter(self, language: str) -> None:
        """Makes `language` the active one, and the method's values the present ones, for passes through the model."""
        self._method.language(language)
        if self._teacher is not None:
            self._teacher.enter(language)
        if self._fixed:
            self._method.write()
        elif self._copies:
            self._exchange(self._copies[language])
            self._method.write(self._under[language])
        elif self._under:
            self._stack.set([self._modules[language]])
            self._method.write(self._under[language])
        else:
            self._stack.set([])
            self._method.write()
            self._stack.set([self._modules[language]])

    def leave(self) -> None:
        """Takes the language out before the optimiser steps, where it would be in the way."""
        if not self._fixed and not self._copies:
            self._stack.set([])

    def end(self) -> None:
        """Ends the phase: the model holds the base and the method's present values."""
        self.leave()
        self._exchange(self._base)
        self._weights, self._copies, self._base, self._under = {}, {}, {}, {}
        self._method.write()

    def _prepare(self, written: Mapping[str, Tensor]) -> None:
        """Gathers what each language has under the method's entries, and copies its weights where that is the way."""
        changed = self._only_deltas_change()
        if changed is None and not written:
            return
        weights = dict(self._model.named_parameters())
        if changed is not None:
            self._weights = changed
            self._base = {name: tensor.data for name, tensor in changed.items()}
        for language, module in self._modules.items():
            self._stack.set([module])
            self._under[language] = {name: gather_entries(weights[name], chosen) for name, chosen in written.items()}
            if changed is not None:
                self._copies[language] = {name: tensor.detach().clone() for name, tensor in changed.items()}
        self._stack.set([])

    def _only_deltas_change(self) -> dict[str, Tensor] | None:
        """The tensors that sparse modules of few languages change, if this phase trains none of them."""
        modules = [module for module in self._modules.values() if isinstance(module, SparseDelta)]
        if len(modules) < len(self._modules) or len(modules) > _MOST_COPIES:
            return None
        trained = {id(parameter) for parameter in self._method.trainable().values()}
        changed = {name: tensor for module in modules for name, tensor in module.targets(self._model).items()}
        return None if any(id(tensor) in trained for tensor in changed.values()) else changed

    def _exchange(self, tensors: Mapping[str, Tensor]) -> None:
        for name, tensor in tensors.items():
            self._weights[name].data = tensor
