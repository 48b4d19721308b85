"""Applies the module of each batch's language to the model during training (thesis §3.3.3, §4.4.4)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from xlt_kernels.delta_write import gather_entries

from xlt.methods.method import Method
from xlt.models.transfer import TransferModel
from xlt.modules import ModuleArtefact, ModuleStack, SparseDelta

# Copies of the weights for which there is memory: the dense phase of LT-SFT needs as much for the dense gradient,
# Adam's two moments and theta0, none of which its sparse phase has.
_MAX_COPIES = 4


class TeacherModules:
    """The modules of a frozen teacher: the task module, on top of the module of the batch's language.

    Args:
        teacher: the base model, without modules.
        modules: ISO 639-3 code -> language module; empty for a teacher without language adaptation.
        task: the task module; None for a teacher with language modules only.
    """

    def __init__(
        self, teacher: TransferModel, modules: Mapping[str, ModuleArtefact], task: ModuleArtefact | None
    ) -> None:
        self._stack = ModuleStack(teacher)
        self._modules = modules
        self._task = () if task is None else (task,)
        self._stack.set([*self._task])
        self._teacher = teacher

    def enter(self, language: str) -> None:
        """Applies the module of `language` to the teacher; does nothing if it is already active."""
        self._teacher.speak(language)
        if self._modules:
            self._stack.set([self._modules[language], *self._task])


class LanguageActivation:
    """The switch between source languages: it writes the batch's language and the method's values into the weights.

    The weights are then the base plus the language module plus what the method trains. If there is one language, its
    module is part of the base for the whole run and costs nothing. With several languages there are three ways to
    switch, which give the same weights bit for bit:

    - With copies, if the phase trains none of the tensors that the modules change, and there are at most four
      languages: each language has a copy of these tensors, and a switch exchanges their storage and moves no weight.
    - One for another, if the phase trains none of these tensors and there are more languages: a module stays in the
      weights until a batch in another language comes, and is then replaced in one pass.
    - In place, if the optimiser updates the weights themselves: the module is written before the forward pass and
      removed after the backward pass, so that the optimiser works on the base. This reads and writes each entry of the
      module twice.

    If the method's entries can change within a phase, the language is written over them in place.

    Args:
        model: the base model, without modules.
        modules: ISO 639-3 code -> language module; empty for training without language adaptation.
        languages: of all sources, including those for validation.
        teacher: modules of a teacher, in which the language is switched, too.
    Raises:
        ValueError: a language has no module, but others have.
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
            raise ValueError(
                f"language_modules: there is no module for source language {', '.join(missing)}; add one for each"
            )
        self._model = model
        self._stack = ModuleStack(model)
        self._teacher = teacher
        codes = dict.fromkeys(languages) if modules else {}
        self._fixed = len(codes) <= 1
        self._modules = {language: modules[language] for language in codes}
        self._weights: dict[str, Tensor] = {}
        self._copies: dict[str, dict[str, Tensor]] = {}
        self._base: dict[str, Tensor] = {}
        self._entry_values: dict[str, dict[str, Tensor]] = {}
        self._stays = False  # whether a module stays in the weights while the optimiser steps
        if self._fixed:
            self._stack.set(list(self._modules.values()))

    def begin(self, method: Method) -> None:
        """Starts a phase, for which `method` is attached but has not written yet."""
        self._method = method
        entries = None if self._fixed else method.written_entries()
        if entries is not None:
            self._prepare(entries)

    def enter(self, language: str | None) -> None:
        """Writes the module of `language` and the method's present values into the model, for the following passes.

        Args:
            language: ISO 639-3 code; None for a batch in several languages, which needs a model without language
                modules, without a teacher, and without networks of single languages.
        """
        if language is not None:
            self._model.speak(language)
            if self._teacher is not None:
                self._teacher.enter(language)
        assert self._fixed or language is not None, "a batch in several languages cannot have a language's module"
        if self._fixed:
            self._method.write()
        elif self._copies and language is not None:
            self._exchange(self._copies[language])
            self._method.write(self._entry_values[language])
        elif self._entry_values and language is not None:
            self._stack.set([self._modules[language]])
            self._method.write(self._entry_values[language])
        elif language is not None:
            self._stack.set([])
            self._method.write()
            self._stack.set([self._modules[language]])

    def leave(self) -> None:
        """Removes the language module before the optimiser's step, if the step changes the module's tensors."""
        if not self._fixed and not self._copies and not self._stays:
            self._stack.set([])

    def end(self) -> None:
        """Ends the phase; the model then holds the base plus the method's present values."""
        if not self._fixed:
            self._stack.set([])
        self._exchange(self._base)
        self._weights, self._copies, self._base, self._entry_values, self._stays = {}, {}, {}, {}, False
        self._method.write()

    def _prepare(self, entries: Mapping[str, Tensor]) -> None:
        """Stores each language's weights at the method's entries and, if switching uses copies, its tensors."""
        changed = self._frozen_tensors()
        if changed is None and not entries:
            return
        weights = dict(self._model.named_parameters())
        if len(self._modules) > _MAX_COPIES:
            self._stays, changed = changed is not None, None
        if changed is not None:
            self._weights = changed
            self._base = {name: tensor.data for name, tensor in changed.items()}
        for language, module in self._modules.items():
            self._stack.set([module])
            self._entry_values[language] = {
                name: gather_entries(weights[name], indices) for name, indices in entries.items()
            }
            if changed is not None:
                self._copies[language] = {name: tensor.detach().clone() for name, tensor in changed.items()}
        self._stack.set([])

    def _frozen_tensors(self) -> dict[str, Tensor] | None:
        """Returns the tensors that the language modules change; None if the phase trains one, or if it is unknown."""
        modules = [module for module in self._modules.values() if isinstance(module, SparseDelta)]
        if len(modules) < len(self._modules):
            return None
        trained = {id(parameter) for parameter in self._method.trainable().values()}
        changed = {name: tensor for module in modules for name, tensor in module.targets(self._model).items()}
        return None if any(id(tensor) in trained for tensor in changed.values()) else changed

    def _exchange(self, tensors: Mapping[str, Tensor]) -> None:
        for name, tensor in tensors.items():
            self._weights[name].data = tensor
