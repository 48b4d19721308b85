"""Refuses what a composed config would run or write that only the user may ask for.

Configs come from other people: a folder given with `--config-dir`, a table, a recipe. They hold values. The classes
that a run consists of are named by the schemas, in code; a config cannot name another one. What runs code of somebody
else, or writes to a place of its own choice, must be asked for on the command line.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import PurePath
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf

from xlt.compose.loading import refuse_emptied
from xlt.errors import UsageError

_GROUPS = ("method", "task")
# Where the classes of Hydra and of its plug-ins are, which are installed packages.
_HYDRAS_CLASSES = {
    "launcher": ("hydra._internal.core_plugins.", "hydra_plugins."),
    "sweeper": ("hydra._internal.core_plugins.", "hydra_plugins.", "optuna.samplers."),
}
_LOG_CLASSES = ("logging.", "colorlog.")
_STREAMS = ("ext://sys.stdout", "ext://sys.stderr")
_OWN_CALLBACKS = {"sweep": "xlt.commands.sweeps.SweepFolder"}
# Keys of Hydra by which it writes, or changes the environment, with the values of conf/config.yaml and of Hydra.
_OF_THE_USER: dict[str, tuple[Any, ...]] = {
    "run.dir": (".", "outputs/${now:%Y-%m-%d}/${now:%H-%M-%S}"),
    "sweep.dir": (
        "${output_dir}/sweeps/${now:%Y-%m-%d_%H-%M-%S_%f}",
        "multirun/${now:%Y-%m-%d}/${now:%H-%M-%S}",
    ),
    "output_subdir": (None, ".hydra"),
    "job.chdir": (None, False),
    "job.env_set": ({},),
}


def class_of(config: Any, group: str) -> Any:
    """Returns the class that a composed node, or a config object, of a group stands for: the one that its schema names.

    Args:
        config: node or object of `group`.
        group: "method" or "task", for messages.
    Raises:
        UsageError: it has no schema, or names another class.
    """
    if (fault := _class_fault(config, group)) is not None:
        raise UsageError(fault)
    return get_class(config._target_)


def _class_fault(config: Any, group: str) -> str | None:
    is_node = isinstance(config, DictConfig)
    schema = OmegaConf.get_type(config) if is_node else type(config)
    default = getattr(schema, "_target_", None) if dataclasses.is_dataclass(schema) else None
    named = config._get_node("_target_") if is_node else getattr(config, "_target_", None)
    if not isinstance(default, str):
        return (
            f"{group}: it has no schema, so nothing says which class it is; its file begins with "
            f"`defaults: [base_NAME, _self_]`, where NAME is a file of xlt/{group.partition('.')[0]}s"
        )
    if str(named) != default:
        return f"{group}._target_={named}: this {group} is {default}; a config cannot name another class"
    return None


def refuse_foreign_classes(config: DictConfig) -> None:
    """Refuses a composed config whose method or task is another class than its schema says.

    Raises:
        UsageError: one line for each.
    """
    there = [group for group in _GROUPS if group in config]
    faults = [_class_fault(config._get_node(group), group) for group in there]
    faults += [_class_fault(node, f"task.tasks.{name}") for name, node in _tasks_of_several(config)]
    if lines := [fault for fault in faults if fault is not None]:
        raise UsageError(*lines)


def _tasks_of_several(config: DictConfig) -> Iterator[tuple[str, Any]]:
    """Yields the name and the node of each task of a run of several."""
    task = config._get_node("task") if "task" in config else None
    several = task._get_node("tasks") if isinstance(task, DictConfig) and "tasks" in task else None
    if isinstance(several, DictConfig):
        yield from ((str(name), several._get_node(name)) for name in several)


def guard_hydra() -> None:
    """Makes Hydra refuse such configs, as soon as a command's config is composed, before it makes objects of it."""
    composing: Any = ConfigLoaderImpl.load_configuration
    searching: Any = ConfigLoaderImpl._process_config_searchpath
    if getattr(composing, "is_guarded", False):
        return

    def load_configuration(
        self: Any, config_name: str | None, overrides: list[str], *rest: Any, **options: Any
    ) -> DictConfig:
        refuse_emptied(overrides)
        config: DictConfig = composing(self, config_name, overrides, *rest, **options)
        refuse_foreign_classes(config)
        if options.get("from_shell", True) and "hydra" in config:
            of_hydra = OmegaConf.to_container(config._get_node("hydra"), resolve=False)
            if lines := list(_hydra_faults(of_hydra, overrides)):
                raise UsageError(*lines)
        return config

    def process_searchpath(self: Any, config_name: str | None, overrides: Any, repository: Any) -> None:
        primary = None if config_name is None else repository.load_config(config_path=config_name)
        path = None if primary is None else OmegaConf.select(primary.config, "hydra.searchpath")
        for place in path or ():
            if not str(place).startswith("file://"):
                raise UsageError(
                    f"hydra.searchpath={place}: a config file cannot name a package, which would be imported; give "
                    "hydra.searchpath on the command line"
                )
        searching(self, config_name, overrides, repository)

    load_configuration.is_guarded = True  # type: ignore[attr-defined]
    loader: Any = ConfigLoaderImpl
    loader.load_configuration, loader._process_config_searchpath = load_configuration, process_searchpath


def _hydra_faults(hydra: Any, words: Sequence[str]) -> Iterator[str]:
    """Yields a line for each key of Hydra's own config that names code or places."""
    for part, prefixes in _HYDRAS_CLASSES.items():
        for name, value in _leaves(hydra.get(part), f"hydra.{part}"):
            if name.endswith("._target_") and not str(value).startswith(prefixes):
                yield f"{name}={value}: no {part} of Hydra; install its package as a plug-in of Hydra"
    for name, callback in (hydra.get("callbacks") or {}).items():
        target = callback.get("_target_") if isinstance(callback, dict) else callback
        if _OWN_CALLBACKS.get(name) != target:
            yield f"hydra.callbacks.{name}._target_={target}: a config cannot make Hydra call this class"
    for part in ("job_logging", "hydra_logging"):
        for name, value in _leaves(hydra.get(part), f"hydra.{part}"):
            key = name.rpartition(".")[2]
            is_code = key in ("()", "class", "factory") and not str(value).startswith(_LOG_CLASSES)
            is_object = isinstance(value, str) and "://" in value and value not in _STREAMS
            is_place = key == "filename" and not str(value).startswith("${hydra.")
            if is_code or is_object or (is_place and not _asks_for(words, name)):
                yield f"{name}={value}: a config cannot name classes or files of the log"
    for name, usual in _OF_THE_USER.items():
        given: Any = hydra
        for step in name.split("."):
            given = (given or {}).get(step)
        if given not in usual and not _asks_for(words, f"hydra.{name}"):
            yield f"hydra.{name}={given}: a config file cannot say this; give it on the command line"


def _leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if items is None:
        yield name, value
        return
    for key, part in items:
        yield from _leaves(part, f"{name}.{key}")


_command_line: list[str] | None = None


@contextmanager
def command_line(words: Sequence[str], *, outermost: bool = False) -> Iterator[None]:
    """Takes these words as those that the user wrote, while a command is carried out.

    Without it, for instance in a program of the user that composes configs, no word is the user's.

    Args:
        words: the overrides.
        outermost: whether words that are already known stay those of the user.
    """
    global _command_line
    before = _command_line
    if before is None or not outermost:
        _command_line = list(words)
    try:
        yield
    finally:
        _command_line = before


def permission_faults(config: Any) -> Iterator[str]:
    """Yields a line for each key of a checked config that needs the user's word, and that no word of the user gives.

    Such keys let code of somebody else run, or name a folder elsewhere to write to.

    Args:
        config: a `RunConfig`.
    """
    words = _command_line or ()
    asked = [
        ("model.trust_remote_code", config.model.trust_remote_code, "runs Python code beside the model"),
        ("launcher.setup", config.launcher.setup, "runs shell lines before each job"),
        ("launcher.sbatch", config.launcher.sbatch, "gives further options to sbatch"),
    ]
    for name, benchmark in config.data.benchmarks.items():
        asked += [
            (f"data.benchmarks.{name}.runs_code", benchmark.runs_code, "runs code that the model writes"),
            (f"data.benchmarks.{name}.folder", benchmark.folder, "may run Python code in the folder"),
        ]
    for key, value, what in asked:
        chosen = key.startswith("launcher.") and any(_key(word) == "launcher" for word in words)
        if value and not chosen and not _asks_for(words, key):
            yield f"{key}={value}: this {what}, and stands in a config file; give it on the command line as well"
    place = str(config.output_dir)
    escapes = place.startswith(("/", "~")) or ".." in PurePath(place).parts
    if escapes and _command_line is not None and not _asks_for(words, "output_dir"):
        yield (
            f"output_dir={place}: a config file names a folder outside the current one; give output_dir on the command "
            "line as well"
        )


def _asks_for(words: Sequence[str], key: str) -> bool:
    """Returns whether one of the user's words sets a key."""
    return any(_key(word) == key for word in words)


def _key(word: str) -> str:
    name = re.sub(r"^[+~]+", "", word).partition("=")[0]
    return name.partition("@")[2] or name
