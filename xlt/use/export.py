"""Writes modules for other libraries: what `xlt export` does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from xlt.errors import UsageError
from xlt.files import atomic_text
from xlt.languages import language_fault
from xlt.modules import LowRankDelta, ModuleArtefact, Rescaling, SparseDelta
from xlt.tasks.task import Task
from xlt.use.checkpoints import export_checkpoint
from xlt.use.hub import model_card, push_to_hub
from xlt.use.loading import UsedModule, load_model, read_module, read_modules, task_of
from xlt.use.peft_folders import write_peft
from xlt.use.plain_delta import write_plain

TARGETS = ("transformers", "peft", "plain", "hub", "card")

_FILES = ("plain", "card")


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


def export(settings: ExportSettings) -> str:
    """Writes modules in the format of another library; returns a line about what was written.

    Raises:
        UsageError, ModuleFileError: modules, model and format do not fit together.
    """
    output = Path(settings.output).expanduser()
    if settings.to == "hub":
        _refuse_several(settings)
        return push_to_hub(settings.modules[0], settings.output)
    _check(settings, output)
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
    if settings.to == "peft":
        return _to_peft(settings, output)
    modules = read_modules(settings.modules, settings.language_modules)
    task = task_of(modules.main, settings.task, settings.settings)
    loaded = load_model(modules, task, model=settings.model, device="cpu", revision=settings.revision)
    language = settings.language
    codes = [code for code in modules.languages if code is not None]
    if language is None and len(codes) > 1:
        raise UsageError(f"--language: missing; there are modules of {', '.join(codes)}, and one is merged")
    if language is None and codes:
        language = codes[0]
    loaded.check_languages({language: str(modules.main.path)})
    name = export_checkpoint(loaded, language, output)
    return f"{name} -> {output}"


def _to_peft(settings: ExportSettings, output: Path) -> str:
    used = read_module(settings.modules[0])
    task = task_of(used, settings.task, settings.settings)
    module = _suited(used, settings, task)
    if not isinstance(module, (LowRankDelta, Rescaling)):
        raise UsageError(f"{used.path}: {module.header}: peft has no such modules; it has LoRA and (IA)^3")
    modules = read_modules([*settings.modules], {})
    loaded = load_model(modules, task, model=settings.model, device="cpu")
    write_peft(module, loaded.model, output)
    left_out = f", without its head ({len(module.tensors)} tensors)" if module.tensors else ""
    return f"{module!r} -> {output}{left_out}"


def _suited(used: UsedModule, settings: ExportSettings, task: Task) -> ModuleArtefact:
    """Returns the module itself, or of one with a part for each language and task that of the given language."""
    features = {} if settings.language is None else {"language": settings.language}
    try:
        return used.module.for_features(task=task.head_name or str(used.module.header.task), **features)
    except ValueError as error:
        raise UsageError(f"{used.path}: {error}") from error


def _refuse_several(settings: ExportSettings) -> None:
    if settings.to != "transformers" and len(settings.modules) != 1:
        raise UsageError(f"--to={settings.to}: writes one module, but {len(settings.modules)} are given")


def _check(settings: ExportSettings, output: Path) -> None:
    _refuse_several(settings)
    lines = []
    if settings.language is not None and (fault := language_fault(settings.language)) is not None:
        lines.append(f"--language={settings.language}: {fault}")
    if not output.absolute().parent.is_dir():
        lines.append(f"--output={settings.output}: there is no folder {output.parent}")
    elif settings.to in _FILES and output.is_dir():
        lines.append(f"--output={settings.output}: this is a folder; give a file")
    elif settings.to not in _FILES and output.exists() and (not output.is_dir() or any(output.iterdir())):
        lines.append(f"--output={settings.output}: exists and is not an empty folder; give another one or remove it")
    if lines:
        raise UsageError(*lines)
