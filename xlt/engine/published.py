"""Reads the modules of other libraries on their base model: composable-sft's, AdapterHub's and peft's."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

from xlt.engine.peft_folders import is_peft, read_peft
from xlt.errors import UsageError
from xlt.models.loading import lm_head_names, load_pretrained, model_identity, quiet_libraries, whole_pretrained
from xlt.models.sublayers import find_blocks, output_embeddings
from xlt.models.transfer import TransferModel
from xlt.modules import ModuleArtefact, ModuleFileError, read_adapter_hub, read_composable_sft
from xlt.repositories import PUBLISHED_FILES, pinned_name, published_module

_ADAPTER_CONFIG = "adapter_config.json"
_FORMAT = 1  # of the converted files; a change here converts anew


def read_published(
    path: Path,
    model: TransferModel,
    *,
    language: str | None = None,
    task: str | None = None,
    without_head: bool = False,
) -> ModuleArtefact:
    """Reads a module of another library; the format of the files decides which.

    Args:
        path: folder, or file `pytorch_diff.bin`.
        model: the base model on which it was trained: no format says its weights, so the caller is responsible.
        language: ISO 639-3 code of a language module.
        task: name of the task of a task module.
        without_head: leave out a head in a folder of peft.
    Raises:
        ModuleFileError: it is damaged, of an unknown kind, or does not fit the model.
    """
    about = {"base_model": Path(model.base_name).name, "base_hash": model.base_hash}
    if is_peft(path):
        purpose = {"language": language, "task": task}
        module: ModuleArtefact = read_peft(path, model, {**about, **purpose}, without_head=without_head)
    elif (path / _ADAPTER_CONFIG).is_file():
        blocks, output = find_blocks(model), output_embeddings(model)
        module = read_adapter_hub(
            path, model=model, blocks=blocks, output=output, language=language, task=task, **about
        )
    else:
        whole = whole_pretrained(model)
        # A class for a task has a head of its own, whose names can be those of the language model's in another class.
        names = {} if task is not None else {theirs: ours for ours, theirs in lm_head_names(model).items()}
        prefix = "" if task is None and whole is model.backbone else str(model.backbone.base_model_prefix)
        module = read_composable_sft(path, base_prefix=prefix, names=names, language=language, task=task, **about)
    try:
        module.check(model)
    except ValueError as error:
        raise ModuleFileError(path, str(error)) from error
    if (name := pinned_name(path)) is not None:
        module.header.provenance["repository"] = name
    return module


def converted_file(name: str, language: str, model_path: str, revision: str | None, folder: Path) -> Path:
    """Returns the module file of a published language module; makes it unless it was made before.

    Args:
        name: folder, file `pytorch_diff.bin`, or repository of the hub.
        language: of the module.
        model_path, revision: of the base model.
        folder: for such files. Below it, that of a module of the hub has a path with the repository and its commit.
    Raises:
        UsageError, ModuleFileError: module or model cannot be read, or do not fit together.
    """
    path = published_module(name)
    if path is None:
        raise UsageError(f"{name}: is no module of another library")
    content = hashlib.blake2b(f"{_FORMAT} {language} {model_identity(model_path, revision)}".encode(), digest_size=16)
    for file in [path] if path.is_file() else [path / part for part in PUBLISHED_FILES if (path / part).is_file()]:
        content.update(f"{file.name} {hashlib.blake2b(file.read_bytes()).hexdigest()}".encode())
    snapshot = path if path.is_dir() else path.parent
    if pinned_name(path) is not None:
        folder = folder.joinpath(*snapshot.parts[-3:])
    file = folder / f"{content.hexdigest()}.safetensors"
    if not file.exists():
        module = read_published(path, _base_model(model_path, revision), language=language)
        folder.mkdir(parents=True, exist_ok=True)
        module.save(file)
    return file


def forget_base_model() -> None:
    """Frees the base model that the last call of `converted_file` may have loaded."""
    _base_model.cache_clear()


@lru_cache(maxsize=1)
def _base_model(path: str, revision: str | None) -> TransferModel:
    """Loads a base model; the last one is kept, because several modules are often for one."""
    quiet_libraries()
    return load_pretrained(path, revision)
