"""Writes modules for other libraries: what `xlt export` does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from xlt.engine.peft_folders import write_peft
from xlt.errors import UsageError
from xlt.files import atomic_text
from xlt.languages import language_fault
from xlt.models.loading import lm_head_names, load_pretrained, quiet_libraries, whole_pretrained
from xlt.models.transfer import TransferModel
from xlt.modules import (
    FeatureMixture,
    LowRankDelta,
    ModuleArtefact,
    Rescaling,
    SparseDelta,
    check_base,
    write_composable_sft,
)
from xlt.tasks.question_answering import SpanHead
from xlt.tasks.tagging import TaggingHead
from xlt.tasks.task import Task
from xlt.use.cards import model_card
from xlt.use.checkpoints import export_checkpoint, with_task_head
from xlt.use.compositions import read_composition, with_composition
from xlt.use.hub import push_to_hub
from xlt.use.loading import UsedModule, UsedModules, load_model, read_module, read_modules, task_of
from xlt.use.model_faults import check_revision
from xlt.use.output import output_fault, output_folder_fault
from xlt.use.plain_delta import write_plain
from xlt.writers import remove_left_overs

TARGETS = ("transformers", "peft", "composable-sft", "plain", "hub", "card")

_FILES = ("composable-sft", "plain", "card")
# Formats -> the options beside modules, output and format that they heed; a checkpoint heeds all.
_OF_BASE = ("model", "revision", "task", "set")
_HEEDED = {"peft": (*_OF_BASE, "language"), "composable-sft": _OF_BASE, "plain": (), "hub": (), "card": ()}


@dataclass(frozen=True)
class ExportSettings:
    """The settings of an export; names and meanings are those of the options of `xlt export`."""

    modules: Sequence[str]
    output: str
    to: str = "transformers"
    language: str | None = None
    language_modules: Mapping[str, str] = field(default_factory=dict)
    model: str | None = None
    revision: str | None = None
    task: str | None = None
    settings: Sequence[str] = ()
    replace: bool = False
    composition: str | None = None


def export(settings: ExportSettings) -> str:
    """Writes modules in the format of another library; returns a line about what was written.

    Raises:
        UsageError, ModuleFileError: modules, model and format do not fit together.
    """
    output = Path(settings.output).expanduser()
    if settings.composition is not None and settings.to != "transformers":
        raise UsageError(
            f"--composition={settings.composition}: --to={settings.to} takes a module as it is; write the combined one "
            "with xlt merge, and export that"
        )
    if settings.to == "hub":
        _refuse_several(settings)
        _refuse_unheeded(settings)
        if settings.replace:
            raise UsageError("--replace: --to=hub adds a commit to the repository; leave the option out")
        return push_to_hub(settings.modules[0], settings.output)
    _check(settings, output)
    remove_left_overs(output.absolute().parent)
    if settings.to == "card":
        used = read_module(settings.modules[0])
        with atomic_text(output) as file:
            file.write(model_card(used, "ORG/NAME"))
        return f"card of {used.module!r} -> {output}"
    if settings.to == "plain":
        module = read_module(settings.modules[0])
        if not isinstance(module.module, SparseDelta):
            raise UsageError(f"{module.path}: {module.module.header} is no sparse delta, which --to=plain writes")
        write_plain(module.module, output)
        return f"{module.module!r} -> {output}"
    if settings.to == "composable-sft":
        return _to_composable_sft(settings, output)
    if settings.to == "peft":
        return _to_peft(settings, output)
    modules = read_modules(settings.modules, settings.language_modules, settings.model, settings.revision)
    expression = None if settings.composition is None else read_composition(settings.composition, modules)
    task = task_of(modules.main, settings.task, settings.settings)
    loaded = load_model(modules, task, model=settings.model, device="cpu", revision=settings.revision)
    loaded = with_composition(loaded, expression)
    language = settings.language
    codes = [code for code in modules.languages if code is not None]
    if language is None and len(codes) > 1:
        raise UsageError(f"--language: missing; there are modules of {', '.join(codes)}, and one is merged")
    if language is None and codes:
        language = codes[0]
    loaded.check_languages({language: str(modules.main.path)})
    name = export_checkpoint(loaded, language, output)
    return f"{name} -> {output}"


def _to_composable_sft(settings: ExportSettings, output: Path) -> str:
    used = read_module(settings.modules[0])
    module = used.module
    if not isinstance(module, SparseDelta):
        raise UsageError(f"{used.path}: {module.header} is no sparse delta, which --to=composable-sft writes")
    prefixes = _names_of_transformers(used, settings)
    head = [name for name in module.tensors if name.startswith("head.") and name not in prefixes]
    tensors = {name: tensor for name, tensor in module.tensors.items() if name not in head}
    try:
        write_composable_sft(SparseDelta(module.header, module.entries, tensors), output, prefixes)
    except ValueError as error:
        raise UsageError(f"{used.path}: {error}") from error
    notes = f", without its head ({len(head)} tensors), which transformers has in no class" if head else ""
    if module.header.untied:
        notes += "; its embeddings were untied in training, which the file cannot say"
    return f"{module!r} -> {output}{notes}"


def _names_of_transformers(used: UsedModule, settings: ExportSettings) -> dict[str, str]:
    """Returns beginning of a name in a sparse delta -> the same in the class of transformers that it is for.

    The head of a task is among them only if transformers has a class that computes the same.
    """
    if used.module.header.task is None:
        model = _base_model(used, settings)
        whole = whole_pretrained(model)
        return {"backbone.": "" if whole is model.backbone else f"{whole.base_model_prefix}.", **lm_head_names(model)}
    task = task_of(used, settings.task, settings.settings)
    loaded = load_model(UsedModules([used]), task, model=settings.model, device="cpu", revision=settings.revision)
    prefixes = {"backbone.": f"{whole_pretrained(loaded.model).base_model_prefix}.", **lm_head_names(loaded.model)}
    if isinstance(loaded.model.head, (TaggingHead, SpanHead)):
        try:
            whole = with_task_head(loaded)
        except UsageError:
            return prefixes
        names = [name for name, _ in whole.named_parameters() if not name.startswith(prefixes["backbone."])]
        prefixes |= {f"head.classifier.{part}": name for name in names for part in ("weight", "bias")
                     if name.endswith(f".{part}")}  # fmt: skip
    return prefixes


def _to_peft(settings: ExportSettings, output: Path) -> str:
    used = read_module(settings.modules[0])
    has_task = used.module.header.task is not None
    module = _suited(used, settings, task_of(used, settings.task, settings.settings) if has_task else None)
    if not isinstance(module, (LowRankDelta, Rescaling)):
        raise UsageError(f"{used.path}: {module.header}: peft has no such modules; it has LoRA and (IA)^3")
    write_peft(module, _base_model(used, settings), output)
    left_out = f", without its head ({len(module.tensors)} tensors)" if module.tensors else ""
    parts = module.header.provenance.get("features") if isinstance(used.module, FeatureMixture) else None
    of = f" of {', '.join(f'{name}={value}' for name, value in parts.items())}" if parts else ""
    return f"{module!r}{of} -> {output}{left_out}"


def _base_model(used: UsedModule, settings: ExportSettings) -> TransferModel:
    """Loads the base model of a task module or a language module."""
    if used.module.header.task is not None:
        task = task_of(used, settings.task, settings.settings)
        return load_model(
            UsedModules([used]), task, model=settings.model, device="cpu", revision=settings.revision
        ).model
    path = settings.model or used.model_facts().get("path")
    if not isinstance(path, str):
        raise UsageError(f"{used.path}: its header does not say where its base model is; give --model=FOLDER")
    check_revision(path, settings.revision)
    quiet_libraries()
    model = load_pretrained(path, settings.revision)
    check_base(used.module.header, model.base_hash, used.path)
    return model


def _suited(used: UsedModule, settings: ExportSettings, task: Task | None) -> ModuleArtefact:
    """Returns the module itself, or of one with a part for each language and task that of the given language."""
    features = {} if settings.language is None else {"language": settings.language}
    try:
        name = None if task is None else task.head_name
        return used.module.for_features(task=name or str(used.module.header.task), **features)
    except ValueError as error:
        raise UsageError(f"{used.path}: {error}") from error


def _refuse_several(settings: ExportSettings) -> None:
    if settings.to != "transformers" and len(settings.modules) != 1:
        raise UsageError(f"--to={settings.to}: writes one module, but {len(settings.modules)} are given")


def _refuse_unheeded(settings: ExportSettings) -> None:
    if settings.to == "transformers":
        return
    given = {
        "language": settings.language,
        "language-module": settings.language_modules,
        "model": settings.model,
        "revision": settings.revision,
        "task": settings.task,
        "set": settings.settings,
    }
    heeded = _HEEDED[settings.to]
    if lines := [
        f"--{name}: has no effect with --to={settings.to}, which writes the module as it is; leave it out"
        for name, value in given.items()
        if value and name not in heeded
    ]:
        raise UsageError(*lines)


def _check(settings: ExportSettings, output: Path) -> None:
    _refuse_several(settings)
    _refuse_unheeded(settings)
    lines = []
    if settings.language is not None and (fault := language_fault(settings.language)) is not None:
        lines.append(f"--language={settings.language}: {fault}")
    is_file = settings.to in _FILES
    fault = output_fault(output, replace=settings.replace) if is_file else output_folder_fault(output)
    if fault is not None:
        lines.append(f"--output={settings.output}: {fault}")
    if settings.replace and not is_file:
        lines.append(f"--replace: --to={settings.to} writes a folder, and no folder is replaced; remove it first")
    if lines:
        raise UsageError(*lines)
