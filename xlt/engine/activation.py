"""The source languages' modules during training: the batch's language is the active one (thesis §3.3.3, §4.4.4)."""

from __future__ import annotations

from collections.abc import Mapping

from xlt.models.transfer import TransferModel
from xlt.modules import ModuleArtefact, ModuleStack


class LanguageActivation:
    """Keeps the module of the batch's language in the model while it is used.

    With one language its module becomes part of the base for the whole run and costs nothing. With several, the module
    is in place for forward and backward only, so that optimiser steps are taken on the weights themselves.

    Args:
        model: the base model, no module applied.
        modules: by ISO 639-3 code; empty for training without language adaptation.
        languages: of all sources, those for validation included.
    Raises:
        ValueError: a language has no module though others have.
    """

    def __init__(self, model: TransferModel, modules: Mapping[str, ModuleArtefact], languages: list[str]) -> None:
        missing = [language for language in languages if modules and language not in modules]
        if missing:
            raise ValueError(f"language_modules: no module for source language {', '.join(missing)}")
        self._stack = ModuleStack(model)
        self._modules = dict(modules)
        self._fixed = len(set(languages)) <= 1
        if self._fixed and modules:
            self._stack.set([self._modules[languages[0]]])

    def enter(self, language: str) -> None:
        """Makes `language` the active one for a forward and backward pass."""
        if not self._fixed and self._modules:
            self._stack.set([self._modules[language]])

    def leave(self) -> None:
        """Takes the language out before the optimiser steps."""
        if not self._fixed:
            self._stack.set([])
