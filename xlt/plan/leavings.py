"""Checks that a run which another run needs leaves what the other needs: a whole model, a generator, an adapter."""

from __future__ import annotations

from xlt.config import RunConfig
from xlt.engine.build import method_class, method_name
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

    Args:
        key, config: of the run that makes the module.
        starting: config of the run that starts from it.
    Raises:
        UsageError: its module is neither an adapter nor a generator of adapters.
    """
    if method_class(starting.method).starts_from_modules and not issubclass(
        method_class(config.method).leaves, (Adapter, Generator)
    ):
        raise UsageError(
            f"{key}: {config.experiment_name} has method {method_name(config.method)}, which leaves no adapter; "
            f"method {method_name(starting.method)} can start from adapters only"
        )
