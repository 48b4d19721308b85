"""Modules that expressions compute for an evaluation: no file has them, but those of their parts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

from xlt.config import SourceConfig
from xlt.data.streams import stream
from xlt.engine.run import ModuleFile
from xlt.modules import ModuleArtefact, ModuleFileError
from xlt.modules.composition.expression import Operation, computed, operations, with_weights


@dataclass(frozen=True)
class ComposedModule(ModuleFile):
    """The module that an operation on modules computes.

    Its `path` is the text of the operation, for messages, and is no place on disk.

    Attributes:
        parts: name in the operation -> module, as pairs.
        operation: computes the module; None does not occur.
        weights: those that were found, if the operation had some that are searched for.
        search: key -> few-shot source on which its weights are searched for, as pairs; empty if they are known.
        search_content: digest of these sources at the time of planning.
    """

    parts: tuple[tuple[str, ModuleFile], ...] = ()
    operation: Operation | None = field(default=None, compare=False)  # the path says it, too
    weights: tuple[float, ...] = ()
    search: tuple[tuple[str, SourceConfig], ...] = field(default=(), compare=False)  # the digest says it, too
    search_content: str = ""

    def load(self) -> ModuleArtefact:
        """Loads the parts and computes the module.

        Raises:
            ModuleFileError: a part is unusable, or the parts cannot be combined.
        """
        assert self.operation is not None and not self.search
        modules = self.loaded_parts()
        try:
            return computed(self.operation, modules, stream)
        except ValueError as error:
            raise ModuleFileError(self.path, str(error).removeprefix(f"{self.path}: ")) from error

    def loaded_parts(self) -> dict[str, ModuleArtefact]:
        """Loads the modules that the operation is applied to; returns name -> module.

        Raises:
            ModuleFileError: one is unusable.
        """
        return {name: _loaded(file, _changed(file)) for name, file in self.parts}

    def with_weights(self, weights: Sequence[float]) -> ComposedModule:
        """Returns the module whose weights are known."""
        assert self.operation is not None
        operation = with_weights(self.operation, weights)
        assert isinstance(operation, Operation)
        return replace(self, operation=operation, weights=tuple(weights), search=(), search_content="")


@lru_cache(maxsize=16)
def _loaded(file: ModuleFile, changed: int) -> ModuleArtefact:
    """Loads a part once for all operations of an evaluation, whatever their weights; see `forget_parts`."""
    return file.load()


def _changed(file: ModuleFile) -> int:
    """Returns the time of a file's last change, in nanoseconds; 0 if there is no file."""
    return file.path.stat().st_mtime_ns if file.path.exists() else 0


def forget_parts() -> None:
    """Frees the modules that compositions were computed from."""
    _loaded.cache_clear()


def files_of(modules: Iterable[ModuleFile]) -> list[ModuleFile]:
    """Returns the module files that modules come from, each once: themselves, or the parts of computed ones."""
    files: list[ModuleFile] = []
    for module in modules:
        files += [part for _, part in module.parts] if isinstance(module, ComposedModule) else [module]
    return list(dict.fromkeys(files))


def operators_of(modules: Iterable[ModuleFile]) -> list[str]:
    """Returns the names of the operators that compute modules, each once."""
    used = [module.operation for module in modules if isinstance(module, ComposedModule)]
    return sorted({one.operator for operation in used if operation is not None for one in operations(operation)})
