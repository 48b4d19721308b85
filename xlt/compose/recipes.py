"""Recipes: the training settings for each method, task and scale; conf/recipes has one file for each task.

Hydra needs one file for each choice, which would be a hundred files of one line. Here one file has all lines of a task,
and every line becomes a choice in Hydra's store. conf/config.yaml uses the choices that fit the run, in this order:

    recipe_for_all     RECIPE_SCALE                 settings for every method
    recipe_by_method   RECIPE_SCALE_METHOD          further settings for one method
    recipe_by_model    RECIPE_SCALE_METHOD_MODEL    further settings for one method with one model

An example of a file:

    like: OTHER                                     (optional) the recipe whose lines this one starts from
    mini:                                           or thesis, or both
      all: {train: {learning_rate: 3.0e-4}}
      mad_x, pfeiffer: {train: {learning_rate: 1.0e-3}, method: {reduction_factor: 16}}
      mad_x on xlm_r: {train: {learning_rate: 5.0e-5}}

Methods and models are named as their files in conf/method and conf/model.
"""

from __future__ import annotations

import importlib.resources
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from hydra.core.config_store import ConfigNode, ConfigStore
from omegaconf import OmegaConf

from xlt.compose.suggestions import suggestion
from xlt.compose.yaml_files import check_config_folder
from xlt.errors import UsageError
from xlt.plug_ins import config_folders

FOLDER = "recipes"
FOR_ALL, BY_METHOD, BY_MODEL = "recipe_for_all", "recipe_by_method", "recipe_by_model"
_SCALES = ("mini", "thesis")
_PARTS = ("train", "method")
# (scale, method, model) -> settings; in a line for all methods, method and model are empty.
_Lines = dict[tuple[str, str, str], Any]


def register_recipes(config_package: str, config_dir: str | None = None) -> None:
    """Puts every line of every recipe into Hydra's store; lines from an earlier call are replaced.

    Args:
        config_package: package with the configs of xlt.
        config_dir: the user's folder of configs, all of whose files are checked; a recipe in its folder `recipes`, or
            in that of a plug-in's configs, replaces ours of the same name.
    Raises:
        UsageError: a file is no valid recipe; a line for each fault.
    """
    folders = [Path(str(importlib.resources.files(config_package)))]
    for folder in [*config_folders(), *([] if config_dir is None else [Path(config_dir)])]:
        check_config_folder(folder)
        folders.append(folder)
    files = {path.stem: path for folder in folders for path in sorted((folder / FOLDER).glob("*.yaml"))}
    known = {group: _names(folders, group) for group in ("method", "model")}
    groups = {group: _Choices(group) for group in ("recipe", FOR_ALL, BY_METHOD, BY_MODEL)}
    recipes: dict[str, _Lines] = {}
    faults: list[str] = []
    for name in files:
        try:
            lines = _lines(name, files, known, recipes, ())
        except UsageError as error:
            faults += error.lines
            continue
        if name.startswith("_"):
            continue
        groups["recipe"][f"{name}.yaml"] = {}
        for (scale, method, model), values in lines.items():
            group = BY_MODEL if model else BY_METHOD if method else FOR_ALL
            option = "_".join(word for word in (name, scale, method, model) if word)
            groups[group][f"{option}.yaml"] = values
    if faults:
        raise UsageError(*dict.fromkeys(faults))
    store = ConfigStore.instance().repo
    store.update({group: choices for group, choices in groups.items() if store.get(group) != choices})


class _Choices(dict[str, Any]):
    """A group in Hydra's store: file name -> values. A config node is made only when Hydra reads an entry.

    Hydra copies its store at each composition; with nodes for hundreds of lines this would be slow.
    """

    def __init__(self, group: str) -> None:
        super().__init__()
        self.group = group

    def __getitem__(self, name: str) -> ConfigNode:
        return ConfigNode(name, OmegaConf.create(super().__getitem__(name)), self.group, "_global_", "xlt")

    def __deepcopy__(self, memo: dict[int, Any]) -> _Choices:
        return self


def _names(folders: list[Path], group: str) -> list[str]:
    return sorted({path.stem for folder in folders for path in (folder / group).glob("*.yaml")})


def _lines(
    name: str,
    files: Mapping[str, Path],
    known: Mapping[str, list[str]],
    recipes: dict[str, _Lines],
    above: tuple[str, ...],
) -> _Lines:
    """Returns the lines of a recipe, merged over those of its `like` recipe; `recipes` is the cache."""
    if name in recipes:
        return recipes[name]
    content = _read(files[name])
    lines: _Lines = {(scale, "", ""): {} for scale in _SCALES}
    if (other := content.pop("like", None)) is not None:
        if other not in files or other in (*above, name):
            near = suggestion(str(other), sorted(set(files) - {name, *above}))
            raise UsageError(f"{files[name]}: like={other}: must be another recipe in {FOLDER}/{near}")
        lines |= _lines(other, files, known, recipes, (*above, name))
    for place, values in _own_lines(files[name], content, known):
        before = lines.get(place, {})
        lines[place] = {part: before.get(part, {}) | values.get(part, {}) for part in before.keys() | values.keys()}
    recipes[name] = lines
    return lines


def _own_lines(
    path: Path, content: dict[str, Any], known: Mapping[str, list[str]]
) -> Iterator[tuple[tuple[str, str, str], Any]]:
    """Yields place and values of each line of a file; a line for several methods or models is yielded for each."""
    for scale, by_method in content.items():
        if scale not in (*_SCALES, "both") or not isinstance(by_method, dict):
            raise UsageError(f"{path}: {scale}: must be like, both, mini or thesis, with lines by method below")
        for line, values in by_method.items():
            parts = values if isinstance(values, dict) else {"": None}
            if not set(parts) <= set(_PARTS) or not all(isinstance(part, dict) for part in parts.values()):
                raise UsageError(f"{path}: {scale}.{line}={values}: must give values below train or method")
            methods, _, models = str(line).partition(" on ")
            for group, names in (("method", methods), ("model", models)):
                for word in _words(names):
                    if word != "all" and word not in known[group]:
                        near = suggestion(word, known[group])
                        raise UsageError(f"{path}: {scale}.{line}: no {group}/{word} in conf/{near}")
            for one in _SCALES if scale == "both" else (scale,):
                for method in _words(methods):
                    for model in _words(models) or [""]:
                        yield (one, "" if method == "all" else method, model), values


def _words(names: str) -> list[str]:
    return [word.strip() for word in names.split(",") if word.strip()]


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """PyYAML's loader, in C if available; a mapping with two equal keys is an error."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        counts = Counter(key.value for key, _ in node.value if isinstance(key.value, str))
        if twice := sorted(key for key, count in counts.items() if count > 1):
            raise yaml.constructor.ConstructorError(None, None, f"{twice[0]} is there twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open(encoding="utf-8") as file:
            content = yaml.load(file, Loader=_Loader)
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise UsageError(f"{path}: not to be read: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UsageError(f"{path}: empty, or no mapping; a recipe has lines below mini, thesis or both")
    return content
