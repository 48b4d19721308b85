"""Converts identities that earlier versions wrote to the present format.

Identities of version 0.1.0 have the version number instead of digests of the code, and other keys in their settings.
Its manifests also contain the whole config, from which the settings are selected as they are today.
"""

from __future__ import annotations

import dataclasses
import importlib
import types
import typing
from collections.abc import Mapping
from functools import cache
from typing import Any

from xlt.config import RunConfig, SourceConfig
from xlt.data.sources import digest, source_identity
from xlt.errors import UsageError
from xlt.plan.identity import facts_of, used_settings

# Readers that do not read a source's own format, so that its `fields` are not used.
_OTHER_FORMAT = ("hub", "translated")


def converted(manifest: Mapping[str, Any]) -> dict[str, Any] | None:
    """Converts the identity in an earlier version's manifest to the present format.

    The result has no digests of code and no order of the sources, because those manifests do not contain them.

    Returns:
        None if the present schemas lack something in the manifest, for example a method that was removed.
    """
    identity = manifest.get("identity") or {}
    try:
        config = _typed(RunConfig, _with_moved_keys(manifest["config"]))
        facts = facts_of(config)
        if "translator" in identity:
            return _translation(identity, used_settings(config.model, facts))
        settings = used_settings(config, facts, of_files=identity["settings"]["method"])
        return _run(identity, config, settings)
    except (KeyError, TypeError, AttributeError, ImportError, UsageError):
        return None


def evaluation_key(identity: Mapping[str, Any], source: SourceConfig | None, modules: Mapping[str, str]) -> str:
    """Returns the key under which version 0.1.0 stored an evaluation.

    Args:
        identity: of the evaluation, in the present format.
        source: the evaluation source; None for a benchmark.
        modules: role -> identity of each module.
    """
    about: dict[str, Any] = {"benchmark": identity.get("benchmark")}
    if source is not None:
        drawn = source.cap is not None or source.cap_words is not None
        fields = {role: column.replace("{code}", source.code) for role, column in source.fields.items()}
        nulls = {"labels": {}, "cap": None, "fields": fields}
        about = {"source": {**nulls, **source_identity(source), **({"split": source.split} if drawn else {})}}
    return digest({**about, "modules": dict(modules), "precision": identity["precision"]})


def _with_moved_keys(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the config with the present keys.

    In version 0.1.0 `train` contained settings of methods, and pre-training was an option of the method `full`.
    """
    method = dict(config["method"])
    if method.pop("leaves_checkpoint", False):
        method["_target_"] = "xlt.methods.pretrain.Pretrain"
    target = str(method["_target_"])
    known = {item.name for item in dataclasses.fields(_schema_of(target))}
    moved = {name: value for name, value in config["train"].items() if name in known and name not in method}
    return {**config, "method": {**method, **moved}}


def _run(identity: Mapping[str, Any], config: RunConfig, settings: dict[str, Any]) -> dict[str, Any]:
    model = identity["model"]
    own = _model(model["of"]) if "of" in model else _model(model)
    teacher = identity.get("teacher")
    return {
        "settings": settings,
        "data": _data(identity["data"], config),
        "model": own,
        "language_modules": identity["language_modules"],
        **({"start": identity["start"]} if "start" in identity else {}),
        **({"teacher": {"model": _model(teacher["model"]), "module": teacher["module"]}} if teacher else {}),
    }


def _translation(identity: Mapping[str, Any], model_settings: dict[str, Any]) -> dict[str, Any]:
    translator = identity["translator"]
    model = {"settings": model_settings, **_model(translator["model"])}
    rest = {name: value for name, value in identity.items() if name != "xlt"}
    return {**rest, "translator": {**translator, "model": model}, "source": _source(identity["source"])}


def _model(model: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the identity of the base model, without the way it is used, which is now part of the settings."""
    if "random" in model:
        return {"random": {"languages": model["languages"]} if "languages" in model else {}}
    return {name: model[name] for name in ("run", "content") if name in model}


def _data(data: Mapping[str, Any], config: RunConfig) -> dict[str, Any]:
    parts: dict[str, Any] = {
        part: {name: _source(source, learned=part == "sources") for name, source in data[part].items()}
        for part in ("sources", "validation", "excluded")
    }
    if "origins" not in data:
        return parts
    gold = {data["sources"][name]["language"] for name, origin in data["origins"].items() if origin == "gold"}
    return {
        **parts,
        "origins": data["origins"],
        "held_out": {language: config.data.held_out_of(language) for language in gold},
    }


def _source(source: Mapping[str, Any], learned: bool = True) -> dict[str, Any]:
    """Returns the source without null values and without keys that it does not use."""
    unused = {"fields"} if source["reader"] in _OTHER_FORMAT else set()
    unused |= set() if learned else {"upsample"}
    return {k: v for k, v in source.items() if k not in unused and v is not None and v != {}}


def _typed(schema: Any, values: Any) -> Any:
    """Makes a config object from JSON values; missing keys become null, unknown keys are ignored."""
    if isinstance(values, Mapping) and "_target_" in values:
        schema = _schema_of(str(values["_target_"]))
    if isinstance(schema, types.UnionType):  # a schema or null
        schema = typing.get_args(schema)[0]
    if dataclasses.is_dataclass(schema) and isinstance(values, Mapping):
        build: Any = schema
        return build(**{name: _typed(hint, values.get(name)) for name, hint in _hints(build).items()})
    if typing.get_origin(schema) is dict and isinstance(values, Mapping):
        return {name: _typed(typing.get_args(schema)[1], value) for name, value in values.items()}
    return values


@cache
def _hints(schema: Any) -> dict[str, Any]:
    hints = typing.get_type_hints(schema)
    return {item.name: hints[item.name] for item in dataclasses.fields(schema)}


def _schema_of(target: str) -> Any:
    """Returns the schema of a method or a task, given the dotted name of its class."""
    name = target.rpartition(".")[0]
    if not name.startswith(("xlt.methods.", "xlt.tasks.")):  # a manifest is a file that others can write
        raise ImportError(f"{target}: version 0.1.0 had no plug-ins")
    module = importlib.import_module(name)
    if not hasattr(module, "SCHEMA"):
        raise ImportError(f"{target}: no schema beside it")
    return module.SCHEMA
