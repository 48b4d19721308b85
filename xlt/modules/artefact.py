"""The module that a run produces, and its header, which says what it is and to which base model it belongs."""

import dataclasses
import importlib
import inspect
import json
import os
import pkgutil
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import nn

from xlt.modules.module_file import ModuleFileError, check_header, read_module_file, write_module_file
from xlt.modules.stack import ModuleStack, Undo

FORMAT_VERSION = 1

_LAYOUT_KEY = "layout"
_VALUE_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_LANGUAGE = re.compile(r"[a-z]{3}(_[A-Z][a-z]{3})?")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModuleHeader:
    """The description of a module that its file carries.

    Args:
        kind: the kind of module, e.g. "sparse_delta"; it determines the class.
        method: the method that trained it, e.g. "lt_sft".
        base_model: name of the base model, for the reader only.
        base_hash: content hash of the base model's weights, which `check_base` compares.
        language: of a language module, its ISO 639-3 code, if need be with a script (`ace_Arab`); else None.
        task: name of the task of a task module, else None.
        fingerprint: identity of the run that produced the module; None if no run did.
        untied: whether the output embeddings were untied from the input embeddings in training (thesis §4.4.2), so
            that the module's change of the input embeddings must not change the output embeddings.
        provenance: further facts about the origin; JSON values only.
        format_version: version of the file format.
    Raises:
        ValueError: `language` is not written as a code, a name is empty, or a value has a wrong type.
    """

    kind: str
    method: str
    base_model: str
    base_hash: str
    language: str | None = None
    task: str | None = None
    fingerprint: str | None = None
    untied: bool = False
    provenance: dict[str, Any] = dataclasses.field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        for name in ("kind", "method", "base_model", "base_hash"):
            value = getattr(self, name)
            if not isinstance(value, str) or not value:
                raise ValueError(f"{name}={value!r}: must be a name that is not empty")
        for name in ("language", "task", "fingerprint"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, str) or not value):
                raise ValueError(f"{name}={value!r}: must be a name or None")
        if self.language is not None and not _LANGUAGE.fullmatch(self.language):
            raise ValueError(
                f"language={self.language!r}: must be an ISO 639-3 code of three small letters, "
                "if need be with a script: ace or ace_Arab"
            )
        if not isinstance(self.untied, bool):
            raise ValueError(f"untied={self.untied!r}: must be true or false")
        if not isinstance(self.provenance, dict):
            raise ValueError(f"provenance={self.provenance!r}: must be a mapping")
        version = self.format_version
        if not isinstance(version, int) or isinstance(version, bool) or version < 1:
            raise ValueError(f"format_version={version!r}: must be an integer of at least 1")

    def check_writable(self) -> None:
        """Refuses a header that no module file can hold.

        Raises:
            ValueError: the provenance is not JSON, or a text is not Unicode.
        """
        check_header(dataclasses.asdict(self))

    def __str__(self) -> str:
        about = [f"{key}={value}" for key in ("language", "task") if (value := getattr(self, key)) is not None]
        return f"{self.kind} module ({', '.join([self.method, *about])})"


class ModuleArtefact(ABC):
    """A module: a removable change of a base model, stored in one file.

    Each kind of module is a subclass that sets `kind` and implements `check`, `write_into`, `to_tensors` and
    `from_tensors`; `load_module` finds the class by its kind. Callers use `apply` and `remove`, or a `ModuleStack`.
    """

    kind: ClassVar[str]
    header: ModuleHeader

    def whole_fault(self) -> str | None:
        """Returns why the module cannot be applied for examples of all features alike; None if it can, as most can."""
        return None

    def for_language(self, language: str) -> "ModuleArtefact":
        """Returns the module to use for a language: this one, or for a generator the one that it generates.

        Args:
            language: ISO 639-3 code.
        Raises:
            ValueError: a generator knows nothing of the language.
        """
        return self

    def for_features(self, **features: str) -> "ModuleArtefact":
        """Returns the module to use for examples with some features: this one, unless it has a part for each feature.

        Args:
            features: name -> value, such as task and language.
        Raises:
            ValueError: the module cannot be used for examples with these features.
        """
        return self

    def layers(self) -> str:
        """Returns what says which layers the module adds and of which sizes; empty if it only changes weights."""
        layout, tensors = self.to_tensors(None)
        return json.dumps([self.kind, layout, {name: [*tensor.shape] for name, tensor in tensors.items()}])

    @abstractmethod
    def check(self, model: nn.Module) -> None:
        """Raises a ValueError if the module cannot be written into `model`; changes nothing."""

    @abstractmethod
    def write_into(self, model: nn.Module) -> Undo:
        """Checks that the module fits, writes it into `model`, and returns a function that removes it again.

        That function puts displaced values back and never subtracts. It is called at most once, when everything
        that was written later has been removed. It may refer to the model's tensors but not to the model itself, so
        that an unused model is freed.
        """

    def write_over(self, model: nn.Module, undo: Undo) -> Undo | None:
        """Replaces the module that was written last by this one in one pass, if this kind of module can.

        The result is that of `undo()` and then `write_into(model)`. If it raises, the model holds neither module.

        Args:
            undo: the function that removes the other module.
        Returns:
            a function that removes this module; None if there is no such way, and nothing was changed.
        """
        return None

    @abstractmethod
    def to_tensors(self, value_dtype: torch.dtype | None) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """Returns the module as a layout (JSON values) and named tensors, which `save` writes."""

    @classmethod
    @abstractmethod
    def from_tensors(cls, header: ModuleHeader, layout: Mapping[str, Any], tensors: dict[str, torch.Tensor]) -> Self:
        """Builds a module from the results of `to_tensors`.

        Raises:
            ValueError, KeyError, TypeError: header, layout and tensors do not fit together.
        """

    def apply(self, model: nn.Module) -> None:
        """Writes the module into `model`, after the modules that are active there.

        Raises:
            ValueError: it does not fit the model or is already active; nothing is changed.
        """
        ModuleStack(model).apply(self)

    def remove(self, model: nn.Module) -> None:
        """Removes the module from `model`; modules that were applied after it stay active.

        Raises:
            ValueError: it is not active in `model`.
        """
        ModuleStack(model).remove(self)

    def check_storable(self) -> None:
        """Refuses a module that `save` could not write, whatever its values.

        Raises:
            ValueError: layout or header are not JSON, or a part of the module is no tensor.
        """
        layout, tensors = self.to_tensors(None)
        check_header({**dataclasses.asdict(self.header), _LAYOUT_KEY: layout})
        for name, tensor in tensors.items():
            if not isinstance(tensor, torch.Tensor) or not isinstance(name, str):
                raise ValueError(f"{self.header}: {name!r} is of type {type(tensor).__name__}: must be a tensor")

    def save(self, path: str | os.PathLike[str], value_dtype: torch.dtype | None = None) -> None:
        """Writes the module to one file, atomically.

        Args:
            path: the file; its folder must exist.
            value_dtype: dtype of the stored values (float32, float16 or bfloat16); None keeps them as they are.
        Raises:
            ValueError: a value does not fit into `value_dtype`, or the provenance is not JSON.
            OSError: the file cannot be written; no partial file remains.
        """
        layout, tensors = self.to_tensors(value_dtype)
        write_module_file(path, {**dataclasses.asdict(self.header), _LAYOUT_KEY: layout}, tensors)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Reads a module of this class; `load_module` reads a module of any kind.

        Raises:
            ModuleFileError: the file is unusable, or holds another kind of module.
        """
        module = load_module(path)
        if not isinstance(module, cls):
            raise ModuleFileError(path, f"holds a module of kind {module.kind!r}, expected {_kind_of(cls)!r}")
        return module


def load_module(path: str | os.PathLike[str]) -> ModuleArtefact:
    """Reads a module file of any kind. Nothing in the file is executed.

    Raises:
        ModuleFileError: the file is missing or damaged, is no module, would change nothing, or has an unknown kind or
            a newer format.
    """
    raw, tensors = read_module_file(path)
    if "format_version" not in raw:
        raise ModuleFileError(path, "its header has no format_version; expected a module file written by xlt")
    if not any(tensor.numel() for tensor in tensors.values()):
        raise ModuleFileError(path, "is an empty module, which would change nothing; train or copy it again")
    version = raw.get("format_version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise ModuleFileError(
            path, f"has format_version {version}, but this xlt reads up to {FORMAT_VERSION}; upgrade xlt"
        )
    layout = raw.pop(_LAYOUT_KEY, None)
    try:
        header = ModuleHeader(**raw)
    except (TypeError, ValueError) as error:
        raise ModuleFileError(
            path, f"its header is not that of a module ({error}); expected a module file written by xlt"
        ) from error
    kinds = _kinds()
    if header.kind not in kinds:
        raise ModuleFileError(path, f"has the unknown kind {header.kind!r}; this xlt reads {', '.join(sorted(kinds))}")
    try:
        return kinds[header.kind].from_tensors(header, layout, tensors)
    except Exception as error:  # layouts and shapes that were made up raise a dozen types in torch
        raise ModuleFileError(
            path, f"its tensors do not fit its header ({error}); expected a module file written by xlt"
        ) from error


def check_values(tensors: Mapping[str, torch.Tensor]) -> None:
    """Checks values that a module writes into a model.

    Args:
        tensors: name -> tensor of any shape.
    Raises:
        ValueError: a tensor is not of float64, float32, float16 or bfloat16, or a value is not finite.
    """
    for name, tensor in tensors.items():
        if tensor.dtype not in _VALUE_DTYPES:
            allowed = ", ".join(str(dtype).removeprefix("torch.") for dtype in _VALUE_DTYPES)
            raise ValueError(f"{name!r} has dtype {tensor.dtype}: it must be one of {allowed}")
        # Extremes are finite only if all values are: a NaN is passed on. `isfinite` takes six times as long.
        if tensor.numel() and not all(bool(torch.isfinite(extreme)) for extreme in torch.aminmax(tensor)):
            raise ValueError(f"{name!r} contains NaN or infinity: values must be finite")


def same_base(one: str, other: str) -> bool:
    """Returns whether two content hashes are of the same base model.

    `BACKBONE+HEAD` has a part for the language-model head. The heads are compared only if both hashes have that part:
    a checkpoint without such a head, and a module file of an older xlt, have none.
    """
    parts = [re.fullmatch(r"([^+-]*)(?:\+([^+-]*))?(-.*)?", text) for text in (one, other)]
    if None in parts:
        return one == other
    (body, head, kind), (other_body, other_head, other_kind) = (part.groups() for part in parts if part is not None)
    return (body, kind) == (other_body, other_kind) and (head is None or other_head is None or head == other_head)


def check_base(header: ModuleHeader, base_hash: str, path: str | os.PathLike[str]) -> None:
    """Refuses a module that was trained on another base model than the one with `base_hash`; see `same_base`.

    Args:
        header: of the module.
        base_hash: content hash of the weights of the model in use.
        path: of the module's file, for the message.
    Raises:
        ModuleFileError: the hashes differ.
    """
    if not same_base(header.base_hash, base_hash):
        raise ModuleFileError(
            path,
            f"belongs to base model {header.base_model!r} with hash {header.base_hash}, but the model in use has hash "
            f"{base_hash}; use that base model, or train the module on the model in use",
        )


def _kind_of(cls: type[ModuleArtefact]) -> str:
    return getattr(cls, "kind", "any")


def _kinds() -> dict[str, type[ModuleArtefact]]:
    """Returns kind -> class of all modules in this package, so that a new kind needs a new file and nothing else."""
    package = Path(__file__).parent
    for info in pkgutil.iter_modules([str(package)]):
        importlib.import_module(f"{__package__}.{info.name}")
    kinds: dict[str, type[ModuleArtefact]] = {}
    queue = list(ModuleArtefact.__subclasses__())
    while queue:
        cls = queue.pop()
        queue.extend(cls.__subclasses__())
        if not inspect.isabstract(cls):
            kinds[cls.kind] = cls
    return kinds
