"""Plans the runs that translate sources, and the runs that train the translators."""

from __future__ import annotations

from omegaconf import DictConfig

from xlt.compose import checked, compose_translator_run
from xlt.config import PARTS, RunConfig, SourceConfig
from xlt.data.planned import MadeFile
from xlt.data.transforms.translation import TRANSLATED_FILE, original
from xlt.engine.build import build_method, method_class, method_name, task_class, task_name
from xlt.engine.run import ModuleFile, Standing
from xlt.engine.translate import TranslationJob
from xlt.errors import UsageError
from xlt.plan.identity import translation_identity
from xlt.plan.runs import Gathered, Planner, Run


def plan_translations(
    plan: Planner, config: DictConfig, run_config: RunConfig, evaluate: bool, gathered: Gathered
) -> dict[str, MadeFile]:
    """Plans the translation of every source that has one.

    Args:
        plan: the runs that translate, and all runs that they need, are added to it.
        config: of the run, as composed.
        run_config: the same config, checked.
        evaluate: also translate the evaluation sources.
        gathered: faults are added to it; a source with a fault is not in the result.
    Returns:
        "part.name" of a source -> the future file of its translation.
    """
    files = {}
    for part in PARTS if evaluate else tuple(part for part in PARTS if part != "evaluation"):
        for name, source in getattr(run_config.data, part).items():
            if source.translation is not None:
                with gathered:
                    fingerprint = _plan_translation(plan, config, f"data.{part}.{name}", source)
                    files[f"{part}.{name}"] = MadeFile(fingerprint, plan.store.folder(fingerprint) / TRANSLATED_FILE)
    return files


def _refuse_modules_of_features(key: str, translator: RunConfig) -> None:
    """Refuses a translator whose module has parts for some examples only: translating applies it as a whole."""
    name = task_name(translator.task)
    learned = [source.features_of_examples(name) for source in translator.data.sources.values()]
    if (fault := build_method(translator.method).whole_fault(learned)) is not None:
        raise UsageError(
            f"{key}.translation.run: method {method_name(translator.method)}: {fault}, so that it cannot "
            "translate; take another method, or a run that learns from one pair of languages"
        )


def _plan_translation(plan: Planner, config: DictConfig, key: str, source: SourceConfig) -> str:
    """Plans the run that translates a source; returns its fingerprint."""
    settings = source.translation
    assert settings is not None
    child = compose_translator_run(config, key, source)
    translator = checked(child)
    if not task_class(translator.task).translates:
        name = task_name(translator.task)
        raise UsageError(f"{key}.translation.run: task {name} does not translate; take task=translation")
    modules: tuple[ModuleFile, ...] = ()
    if settings.adapts(source.language):
        _refuse_modules_of_features(key, translator)
        run = plan.add(child, evaluate=False)
        translator, model = run.config, run.fingerprint
        if method_class(translator.method).leaves_checkpoint:
            path: str | None = str(plan.store.checkpoint(model))
        else:
            path, modules = run.standing.model_path, (ModuleFile(plan.store.module_file(model), run=model),)
    elif translator.model.run is not None:
        model = plan.model_run(child, translator)
        path = str(plan.store.checkpoint(model))
    else:
        model, path = None, translator.model.path
    if path is None:
        raise UsageError(
            f"{key}.translation.adapt: {translator.experiment_name} begins with random weights; name the language"
        )
    job = TranslationJob(original(source), source.language, settings, modules)
    identity = translation_identity(translator, model, job.source, source.language, settings)
    fingerprint, identity = plan.other_code.chosen(identity, translator.other_code)
    if fingerprint not in plan.runs:
        standing = Standing(fingerprint, path, depends_on={} if model is None else {"model": model})
        plan.runs[fingerprint] = Run(fingerprint, identity, translator, standing, job=job)
    return fingerprint
