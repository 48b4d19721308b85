"""Finds words of a command that have no effect on its run, or less than they seem to, and says so in a line each."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from xlt.compose.overrides import key_of
from xlt.config import RunConfig
from xlt.plan.identity import facts_of

_OFF: tuple[Any, ...] = (None, False, 0, "none", [], {})
"""Values by which nothing is asked for, so that it is no surprise if nothing follows."""
_OF_CLUSTERS = (
    "partition", "account", "minutes", "memory_gb", "cpus", "gpus", "seconds_to_save", "requeues", "setup", "sbatch",
)  # fmt: skip
_OF_ACCOUNTS = ("project", "entity", "artifacts")
_ONLY_SPEED = ("train.evaluation_batch_size",)


def unheeded(config: RunConfig, words: Sequence[str], composed: DictConfig | None = None) -> list[str]:
    """Returns a line for each word of a command that has no effect on a run, or less than it seems to have.

    Args:
        config: of the run, checked.
        words: Hydra overrides of the command. Those that choose a file of a config group are not looked at.
        composed: the config, composed but not resolved; None: whether anything uses `target` is not said.
    """
    given = {key: word for word in words if "=" in word and "@" not in (key := key_of(word))}
    lines = []
    for key, word in given.items():
        try:
            holders, value = _looked_up(config, key)
        except LookupError:
            continue
        if dataclasses.is_dataclass(value) or value in _OFF or key in _ONLY_SPEED:
            continue
        why = _no_effect(config, key, holders)
        if why is None and key == "target" and composed is not None and not _uses_target(config, composed):
            why = "no data mix and no student of this run is for a target language; see data.evaluation"
        if why is not None:
            lines.append(f"{word}: has no effect here: {why}")
        else:
            lines += [f"{word}: {limit}" for limit in _limits(config, key, given)]
    return lines


def unheeded_by_all(configs: Iterable[RunConfig], words: Sequence[str]) -> list[str]:
    """Returns the lines of `unheeded` that are true of every run of several, such as those of a table."""
    lines: list[str] | None = None
    for config in configs:
        of_run = unheeded(config, words)
        lines = of_run if lines is None else [line for line in lines if line in of_run]
        if not lines:
            break
    return lines or []


def _looked_up(config: Any, key: str) -> tuple[list[tuple[Any, str]], Any]:
    """Returns the objects on the way to a key, each with the name of its part; and the key's value.

    Raises:
        LookupError: there is no such key.
    """
    holders, node = [], config
    for name in key.split("."):
        holders.append((node, name))
        if isinstance(node, Mapping):
            node = node[name]
        elif dataclasses.is_dataclass(node) and hasattr(node, name):
            node = getattr(node, name)
        else:
            raise LookupError(key)
    return holders, node


def _no_effect(config: RunConfig, key: str, holders: Sequence[tuple[Any, str]]) -> str | None:
    """Returns why a key has no effect on a run; None if it has one, or if nothing is known about it."""
    facts, group, name = facts_of(config), key.partition(".")[0], key.rpartition(".")[2]
    if any(hasattr(holder, "unused") and part in holder.unused(facts) for holder, part in holders):
        return "the other settings of the run leave it unused"
    modules = config.language_modules
    if group == "language_modules" and not (modules.experiment or modules.generator or modules.paths):
        return "the run has no language modules; choose language_modules"
    if key.startswith("data.sampling.") and len(config.data.sources) == 1:
        return "there is one training source"
    if group == "launcher" and name in _OF_CLUSTERS and config.launcher.cluster is None:
        return "runs are executed on this machine, no cluster; take launcher=slurm"
    if group == "tracker" and name in _OF_ACCOUNTS and config.tracker.wandb == "off":
        return "tracker.wandb=off; give online or offline"
    return None


def _limits(config: RunConfig, key: str, given: Mapping[str, str]) -> Iterator[str]:
    """Yields what limits the effect of a key about the training's length or rate, unless the command gives it too."""
    group, _, name = key.partition(".")
    if group != "train":
        return
    if name == "epochs":
        if (most := config.train.max_steps) is not None and "train.max_steps" not in given:
            yield f"the recipe's train.max_steps={most} ends the training if it is reached before; null lifts it"
        if (least := config.train.min_steps) and "train.min_steps" not in given:
            yield f"the recipe's train.min_steps={least} makes the training longer if the epochs are fewer steps"
    own = f"dense_{name}"  # of LT-SFT's first phase
    if (value := getattr(config.method, own, None)) is not None and f"method.{own}" not in given:
        yield f"the dense phase has method.{own}={value}; null: as train.{name}"


def _uses_target(config: RunConfig, composed: DictConfig) -> bool:
    return config.model.student is not None or "target}" in OmegaConf.to_yaml(composed, resolve=False)
