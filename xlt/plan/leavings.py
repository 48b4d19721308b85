"""Checks that a run which another run needs leaves what the other needs: a model, a generator, an adapter, a head."""

from __future__ import annotations

from xlt.config import RunConfig
from xlt.engine.build import method_class, method_name, task_class, task_name
from xlt.errors import UsageError
from xlt.modules.adapter import Adapter
from xlt.modules.generator import Generator


def check_leaves_model(key: str, config: RunConfig) -> None:
    """Refuses a run that leaves no checkpoint for the run that begins with its model.

    Args:
        key: the config key that asks for the run, such as `model.run`.
        config: of the run.
    Raises:
        UsageError: its method leaves only a module.
    """
    if not method_class(config.method).leaves_checkpoint:
        raise UsageError(
            f"{key}: {config.experiment_name} has method {method_name(config.method)}, which leaves a module and no "
            f"checkpoint; add method=pretrain to {key}.overrides, or give another experiment"
        )


def check_leaves_generator(key: str, config: RunConfig) -> None:
    """Refuses a run that leaves no generator of language modules; see `check_leaves_model`.

    Raises:
        UsageError: its method makes none, or it learns from one language only, which gives an adapter of this language.
    """
    name, languages = method_name(config.method), {source.language for source in config.data.sources.values()}
    if not issubclass(method_class(config.method).leaves, Generator):
        raise UsageError(
            f"{key}: {config.experiment_name} has method {name}, which leaves no generator of language modules; "
            f"add method=mad_g to {key}.overrides"
        )
    if len(languages) < 2:
        raise UsageError(
            f"{key}: {config.experiment_name} learns from {', '.join(sorted(languages)) or 'no language'} only, so "
            "that it leaves an adapter and no generator; give it texts of several languages"
        )


def check_leaves_start(key: str, config: RunConfig, starting: RunConfig) -> None:
    """Refuses a run from whose module another run cannot start; see `check_leaves_model`.

    Every method can start from the head that another run has trained; only some can from a whole module.

    Args:
        key, config: of the run that makes the module.
        starting: config of the run that starts from it.
    Raises:
        UsageError: its module is no head, adapter or generator of adapters, or the starting run has no use for it.
    """
    left = method_class(config.method)
    if getattr(left, "leaves_head", False):
        if not task_class(starting.task).has_head:
            raise UsageError(f"{key}: leaves a head, but task {task_name(starting.task)} has none; leave start out")
        return
    if not method_class(starting.method).starts_from_modules:
        raise UsageError(f"{key}: {fresh_fault(starting)}")
    if not issubclass(left.leaves, (Adapter, Generator)):
        raise UsageError(
            f"{key}: {config.experiment_name} has method {method_name(config.method)}, which leaves no adapter; "
            f"method {method_name(starting.method)} can start from adapters only"
        )


def fresh_fault(config: RunConfig) -> str:
    """Returns the reason why a run cannot start from more than a head."""
    return (
        f"method {method_name(config.method)} begins with fresh values; leave start out, begin with a head alone "
        "(start=head_first), or take an adapter method"
    )
