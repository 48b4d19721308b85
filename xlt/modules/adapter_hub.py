"""Adapters as AdapterHub publishes them: read and written in the format of the `adapters` library.

A folder holds `adapter_config.json` (see `adapter_hub_settings`) and the tensors (see `adapter_hub_tensors`), in
`adapter.safetensors` or else in `pytorch_adapter.bin`, which `torch_archive` reads without running it. Prediction heads
are other files of the format, made for the library's classes, and no part of an adapter: they are neither read nor
written.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import safetensors.torch
from torch import Tensor, nn

from xlt import __version__
from xlt.modules.adapter import Adapter
from xlt.modules.adapter_hub_settings import HubSettings, read_settings, written_settings
from xlt.modules.adapter_hub_tensors import INVERTIBLE, BlockPaths, HubModel, HubTensor
from xlt.modules.artefact import ModuleHeader, check_base
from xlt.modules.module_file import ModuleFileError
from xlt.modules.torch_archive import StoredTensor, read_archive, read_legacy_archive

_CONFIG, _SAFE_WEIGHTS, _WEIGHTS = "adapter_config.json", "adapter.safetensors", "pytorch_adapter.bin"
_WANTED = "expected a Pfeiffer or Houlsby adapter as the `adapters` library saves it"


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
        folder: with `adapter_config.json` and the tensors; where both tensor files are, the safetensors file counts.
        base_model, base_hash: the base model it was trained on. The folder has a name for it at most: the caller
            vouches for it.
        model: a `TransferModel` of it, which says what fits; left as it is.
        blocks: of the model, lowest first, from `find_blocks`.
        output: path of its output embeddings, from `output_embeddings`; the inverse of an invertible adapter stands
            before them.
        language: ISO 639-3 code of a language module.
        task: name of the task of a task module.
    Returns:
        A module of method "pfeiffer", "houlsby", or "mad_x" (Pfeiffer's with an invertible adapter), in the dtype of
        the file but at least float32, without a task head. Its provenance names the tensor file and its blake2b
        digest, what adapter and base model are called there, and settings that act in training alone, like dropout.
    Raises:
        ModuleFileError: a file is missing or damaged; a pickle asks for anything but tensors; a setting, the model
            type, the hidden size or the number of blocks does not fit; tensors are missing, left over, or of another
            shape.
    """
    folder = Path(folder)
    with _faults_of(folder / _CONFIG):
        content = json.loads((folder / _CONFIG).read_bytes())
        if not isinstance(content, dict):
            raise ValueError("is not a JSON object")
        name, settings = _checked_name(content.get("name")), read_settings(content)
        frame = HubModel.of(model, blocks)
        frame.check_made_for_it(content, settings)
    weights = folder / (_SAFE_WEIGHTS if (folder / _SAFE_WEIGHTS).exists() else _WEIGHTS)
    with _faults_of(weights):
        data = weights.read_bytes()
        tensors = {frame.plain(key): tensor for key, tensor in _read_tensors(data, weights.name).items()}
        if content.get("type") == "text_task" and not any(key.startswith(INVERTIBLE) for key in tensors):
            # early versions say so of task adapters that never had one
            settings = dataclasses.replace(settings, invertible_factor=None)
        wanted = frame.tensors(settings, name)
        _check_tensors(tensors, wanted, frame)
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
        ours = {place.ours: tensors[key] for key, place in wanted.items()}
        return Adapter.from_tensors(header, frame.layout(settings, output), ours)


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

    The folder appears whole or not at all, and nothing that is there is overwritten.

    Args:
        module: with adapters of one activation in Pfeiffer's places or in Houlsby's, in all blocks or some.
        folder: new or empty; its parent must exist.
        name: of the adapter in the library; not empty, without a dot.
        model: a `TransferModel` of the module's base model; left as it is.
        blocks: of the model, lowest first, from `find_blocks`.
        without_head: leaves the module's task head out; a module that has one is refused otherwise.
    Raises:
        ModuleFileError: the module is not for this model, has a head, or is made as no settings of the format say; or
            the folder is not empty.
        OSError: the folder cannot be written.
    """
    folder = Path(folder)
    check_base(module.header, str(model.base_hash), folder)
    try:
        if module.tensors and not without_head:
            head = f"{next(iter(module.tensors))} and the rest of its head"
            raise ValueError(f"{head} are no part of AdapterHub's adapters; without_head=True leaves them out")
        frame = HubModel.of(model, blocks)
        settings = frame.settings_of(module)
        places = frame.tensors(settings, _checked_name(name))
        _, own = module.to_tensors(None)
        tensors = {key: own[place.ours] for key, place in places.items()}
        _check_tensors(tensors, places, frame)
    except ValueError as error:
        raise ModuleFileError(folder, f"{module.header} cannot be written for AdapterHub: {error}") from error
    content = {
        "config": written_settings(settings),
        "hidden_size": frame.hidden_size,
        "model_class": type(model.backbone).__name__,
        "model_name": module.header.base_model,
        "model_type": frame.model_type,
        "name": name,
        "version": f"xlt.{__version__}",  # without any, the library takes "gelu" for its approximation
    }
    stored = {f"{frame.prefix}.{key}": tensor.clone().contiguous() for key, tensor in tensors.items()}
    text = json.dumps(content, indent=2, sort_keys=True) + "\n"
    _write_folder(folder, {_CONFIG: text.encode(), _SAFE_WEIGHTS: safetensors.torch.save(stored)})


@contextlib.contextmanager
def _faults_of(path: Path) -> Iterator[None]:
    """Whatever goes wrong with a file, as a ModuleFileError that names it."""
    try:
        yield
    except OSError as error:
        raise ModuleFileError(path, f"cannot be read ({error.strerror}); {_WANTED}") from error
    except Exception as error:  # json, pickle, zipfile, safetensors and our checks raise a dozen types between them
        raise ModuleFileError(path, f"{str(error) or type(error).__name__}; {_WANTED}") from error


def _checked_name(name: object) -> str:
    if not isinstance(name, str) or not name or "." in name:
        raise ValueError(f"name={name!r}: an adapter's name must not be empty or have a dot")
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
        raise ValueError("does not hold a dict of tensors")
    for key, stored in content.items():
        if not isinstance(key, str) or not isinstance(stored, StoredTensor):
            raise ValueError(f"holds {key!r}, which is not a tensor with a name")
    return {key: stored.read() for key, stored in content.items()}


def _check_tensors(found: Mapping[str, Tensor], wanted: Mapping[str, HubTensor], frame: HubModel) -> None:
    """Raises a ValueError unless names, shapes and dtypes are those wanted."""
    blocks, count = {frame.block_of(key) for key in found} - {None}, len(frame.blocks)
    if beyond := [block for block in blocks if block is not None and block >= count]:
        raise ValueError(f"has adapters in block {max(beyond)}, the model in use has blocks 0 to {count - 1}")
    if empty := sorted({block for key in wanted if (block := frame.block_of(key)) is not None} - blocks):
        raise ValueError(f"has no adapters in block {empty[0]}, which leave_out does not name")
    if missing := [key for key in wanted if key not in found]:
        raise ValueError(f"lacks the tensor {missing[0]!r} and {len(missing) - 1} more")
    if unexpected := sorted(found.keys() - wanted.keys()):
        raise ValueError(f"has the tensor {unexpected[0]!r} and {len(unexpected) - 1} more that no setting asks for")
    for key, place in wanted.items():
        if tuple(found[key].shape) != place.shape or not found[key].is_floating_point():
            made = f"{tuple(found[key].shape)} of {str(found[key].dtype).removeprefix('torch.')}"
            raise ValueError(f"has the tensor {key!r} as {made}; its settings ask for {place.shape} of floats")


def _write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Makes a folder of these files under another name beside it, and then gives it its own."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ModuleFileError(folder, "is there already and not an empty folder; give another one or remove it")
    target = folder.resolve()
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(6)}.tmp")
    temporary.mkdir()
    try:
        for name, data in files.items():
            with (temporary / name).open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
