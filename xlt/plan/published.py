"""Puts module files in the place of modules of other libraries that a config names."""

from __future__ import annotations

import contextlib
import copy
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from xlt.engine.published import converted_file, forget_base_model
from xlt.errors import UsageError
from xlt.modules import ModuleFileError
from xlt.repositories import published_module


def with_module_files(config: DictConfig) -> DictConfig:
    """Returns the config with a module file for each published language module; itself if it names none.

    The files are made in `cache/published` of the output folder, on the run's base model.

    Args:
        config: composed, not yet checked.
    Raises:
        UsageError: modules cannot be read, or not used with this base model; a line for each.
    """
    try:
        names = _published(config)
        model, revision, output_dir = config.model.path, config.model.revision, config.output_dir
    except OmegaConfBaseException:  # `checked` says what is wrong
        return config
    lines, files = [], {}
    for language, name in names.items():
        key = f"language_modules.paths.{language}={name}"
        try:
            if not isinstance(model, str):
                raise UsageError("is a module of another library, which needs its base model; give model.path")
            folder = Path(output_dir).expanduser() / "cache" / "published"
            files[language] = str(converted_file(name, language, model, revision, folder))
        except UsageError as error:
            lines += [f"{key}: {line.removeprefix(f'{name}: ')}" for line in error.lines]
        except ModuleFileError as error:
            lines.append(f"{key}: {error}")
    forget_base_model()
    if lines:
        raise UsageError(*lines)
    if files:
        config = copy.deepcopy(config)
        for language, file in files.items():
            config.language_modules.paths[language] = file
    return config


def _published(config: DictConfig) -> dict[str, str]:
    """Returns language -> name, for the language modules of other libraries; absent ones are left to `checked`."""
    paths = OmegaConf.to_container(config.language_modules.paths, resolve=True)
    assert isinstance(paths, dict)
    found = {}
    for language, path in paths.items():
        with contextlib.suppress(UsageError):
            if isinstance(path, str) and published_module(path) is not None:
                found[str(language)] = path
    return found
