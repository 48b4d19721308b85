"""Reads and writes adapters in the format of AdapterHub and its `adapters` library.

An adapter is a folder with `adapter_config.json` (see `adapter_hub_settings`) and a file of tensors (see
`adapter_hub_tensors`): `adapter.safetensors` or `pytorch_adapter.bin`, which `torch_archive` reads without running it.
The format stores prediction heads in other files, made for the library's classes. They are no part of an adapter, and
are neither read nor written here.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import safetensors.torch
from torch import Tensor, nn

from xlt import __version__
from xlt.files import atomic_folder
from xlt.modules.adapter import Adapter
from xlt.modules.adapter_hub_settings import HubSettings, read_settings, settings_as_config
from xlt.modules.adapter_hub_tensors import INVERTIBLE, BlockPaths, HubModel, HubTensor
from xlt.modules.artefact import ModuleHeader, check_base
from xlt.modules.module_file import ModuleFileError, read_whole_file
from xlt.modules.torch_archive import StoredTensor, read_archive, read_legacy_archive

_CONFIG, _SAFE_WEIGHTS, _WEIGHTS = "adapter_config.json", "adapter.safetensors", "pytorch_adapter.bin"
_EXPECTATION = "expected a Pfeiffer or Houlsby adapter as the `adapters` library saves it"


def read_adapter_hub(
    folder: str | os.PathLike[str],
    *,
    base_model: str,
    base_hash: str,
    model: nn.Module,
    blocks: Sequence[BlockPaths],
    output: str | None = None,
    language: str | None = None,
    task: str | None = None,
) -> Adapter:
    """Reads an adapter from AdapterHub, or one that the `adapters` library saved.

    Args:
        folder: contains `adapter_config.json` and the tensors; of two files of tensors the safetensors file is read.
        base_model, base_hash: the base model on which it was trained. The folder says no more than its name, so the
            caller is responsible.
        model: a `TransferModel` of the base model, with which the adapter is compared; it does not change.
        blocks: of the model, lowest first, from `find_blocks`.
        output: path of the model's output embeddings, from `output_embeddings`, before which the inverse of an
            invertible adapter runs.
        language: ISO 639-3 code of a language module.
        task: name of the task of a task module.
    Returns:
        A module without a task head, of method "pfeiffer", "houlsby" or "mad_x" (Pfeiffer's with an invertible
        adapter), in float32 or the file's dtype if that is wider. Its provenance has the name and blake2b digest of
        the file of tensors, the names of adapter and base model in the folder, and the settings that matter in
        training only, such as dropout.
    Raises:
        ModuleFileError: a file is missing or damaged; a pickle asks for more than tensors; a setting, the model type,
            the hidden size or the number of blocks does not fit; or a tensor is missing, unknown or of another shape.
    """
    folder = Path(folder)
    with _errors_of(folder / _CONFIG):
        content = json.loads(read_whole_file(folder / _CONFIG, _EXPECTATION))
        if not isinstance(content, dict):
            raise ValueError("is not a JSON object")
        name, settings = _check_name(content.get("name")), read_settings(content)
        hub_model = HubModel.of(model, blocks)
        hub_model.check_model(content, settings)
    weights = folder / (_SAFE_WEIGHTS if (folder / _SAFE_WEIGHTS).exists() else _WEIGHTS)
    with _errors_of(weights):
        data = read_whole_file(weights, _EXPECTATION)
        tensors = {hub_model.plain(key): tensor for key, tensor in _read_tensors(data, weights.name).items()}
        if content.get("type") == "text_task" and not any(key.startswith(INVERTIBLE) for key in tensors):
            # early versions set this factor for task adapters, too, which never had an invertible adapter
            settings = dataclasses.replace(settings, invertible_factor=None)
        expected = hub_model.tensors(settings, name)
        _check_tensors(tensors, expected, hub_model)
        header = ModuleHeader(
            kind=Adapter.kind,
            method=_method(settings),
            base_model=base_model,
            base_hash=base_hash,
            language=language,
            task=task,
            provenance={
                "imported_from": "AdapterHub",
                "file": weights.name,
                "blake2b": hashlib.blake2b(data, digest_size=32).hexdigest(),
                "name": name,
                "model_name": content.get("model_name"),
                "version": content.get("version"),
                "in_training_only": dict(settings.in_training_only),
            },
        )
        renamed = {tensor.name: tensors[key] for key, tensor in expected.items()}
        return Adapter.from_tensors(header, hub_model.layout(settings, output), renamed)


def write_adapter_hub(
    module: Adapter,
    folder: str | os.PathLike[str],
    *,
    name: str,
    model: nn.Module,
    blocks: Sequence[BlockPaths],
    without_head: bool = False,
) -> None:
    """Writes an adapter as a folder that the `adapters` library loads with `use_safetensors=True`.

    The folder is written completely or not at all, and no existing file is overwritten.

    Args:
        module: its adapters have one activation and are at Pfeiffer's or at Houlsby's places, in all or some blocks.
        folder: new or empty; its parent must exist.
        name: of the adapter in the library; not empty, without a dot.
        model: a `TransferModel` of the module's base model; it does not change.
        blocks: of the model, lowest first, from `find_blocks`.
        without_head: whether to leave out the module's task head. If False, a module with a head is refused.
    Raises:
        ModuleFileError: the module is for another model, has a head, or has an architecture that the format cannot
            express; or the folder is not empty.
        OSError: the folder cannot be written.
    """
    folder = Path(folder)
    check_base(module.header, str(model.base_hash), folder)
    try:
        if module.tensors and not without_head:
            raise ValueError(
                f"it has a task head ({next(iter(module.tensors))}), which AdapterHub's adapters do not contain; "
                "without_head=True (--without-head) leaves it out"
            )
        hub_model = HubModel.of(model, blocks)
        settings = hub_model.settings_of(module)
        expected = hub_model.tensors(settings, _check_name(name))
        _, module_tensors = module.to_tensors(None)
        tensors = {key: module_tensors[tensor.name] for key, tensor in expected.items()}
        _check_tensors(tensors, expected, hub_model)
    except ValueError as error:
        raise ModuleFileError(folder, f"{module.header} cannot be written for AdapterHub: {error}") from error
    content = {
        "config": settings_as_config(settings),
        "hidden_size": hub_model.hidden_size,
        "model_class": type(model.backbone).__name__,
        "model_name": module.header.base_model,
        "model_type": hub_model.model_type,
        "name": name,
        "version": f"xlt.{__version__}",  # without a version, the library reads "gelu" as its approximation
    }
    stored = {f"{hub_model.prefix}.{key}": tensor.clone().contiguous() for key, tensor in tensors.items()}
    text = json.dumps(content, indent=2, sort_keys=True) + "\n"
    _write_folder(folder, {_CONFIG: text.encode(), _SAFE_WEIGHTS: safetensors.torch.save(stored)})


@contextlib.contextmanager
def _errors_of(path: Path) -> Iterator[None]:
    """Turns every error with a file into a ModuleFileError that names the file."""
    try:
        yield
    except ModuleFileError:
        raise
    except OSError as error:
        raise ModuleFileError(path, f"cannot be read ({error.strerror}); {_EXPECTATION}") from error
    except Exception as error:  # json, pickle, zipfile, safetensors and our checks raise a dozen types
        raise ModuleFileError(path, f"{str(error) or type(error).__name__}; {_EXPECTATION}") from error


def _check_name(name: object) -> str:
    if not isinstance(name, str) or not name or "." in name:
        raise ValueError(f"has name={name!r}: an adapter's name must be a text that is not empty and has no dot")
    return name


def _method(settings: HubSettings) -> str:
    if settings.where == "both_sublayers":
        return "houlsby"
    return "pfeiffer" if settings.invertible_factor is None else "mad_x"


def _read_tensors(data: bytes, name: str) -> dict[str, Tensor]:
    if name == _SAFE_WEIGHTS:
        return safetensors.torch.load(data)
    content = read_archive(data) if data.startswith(b"PK") else read_legacy_archive(data)
    if not isinstance(content, dict):
        raise ValueError("does not contain a dict of tensors")
    for key, stored in content.items():
        if not isinstance(key, str) or not isinstance(stored, StoredTensor):
            raise ValueError(f"contains {reprlib.repr(key)}, which is not a tensor with a name")
    return {key: stored.read() for key, stored in content.items()}


def _check_tensors(tensors: Mapping[str, Tensor], expected: Mapping[str, HubTensor], hub_model: HubModel) -> None:
    """Raises a ValueError unless names, shapes and dtypes are the expected ones."""
    blocks, count = {hub_model.block_of(key) for key in tensors} - {None}, len(hub_model.blocks)
    if beyond := [block for block in blocks if block is not None and block >= count]:
        raise ValueError(f"has adapters in block {max(beyond)}, the model in use has blocks 0 to {count - 1}")
    if empty := sorted({block for key in expected if (block := hub_model.block_of(key)) is not None} - blocks):
        raise ValueError(f"has no adapters in block {empty[0]}, but its leave_out does not list this block")
    if missing := [key for key in expected if key not in tensors]:
        raise ValueError(f"lacks the tensor {missing[0]!r} and {len(missing) - 1} more")
    if unexpected := sorted(tensors.keys() - expected.keys()):
        raise ValueError(f"has the tensor {unexpected[0]!r} and {len(unexpected) - 1} more that no setting asks for")
    for key, tensor in expected.items():
        if tuple(tensors[key].shape) != tensor.shape or not tensors[key].is_floating_point():
            description = f"{tuple(tensors[key].shape)} of {str(tensors[key].dtype).removeprefix('torch.')}"
            raise ValueError(f"has the tensor {key!r} as {description}; its settings ask for {tensor.shape} of floats")


def _write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Writes the files to a temporary folder beside the target, and then renames it."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ModuleFileError(folder, "exists and is not an empty folder; give another one or remove it")
    with atomic_folder(folder.resolve()) as temporary:
        for name, data in files.items():
            (temporary / name).write_bytes(data)
