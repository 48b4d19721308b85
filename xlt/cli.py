"""The `xlt` command: compose, check, plan, carry out, show."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Callable, Sequence

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from xlt.compose import CONFIG_MODULE, VERSION_BASE, hydra_ready, one_line, override_faults, register_schemas
from xlt.config import UsageError
from xlt.engine.processes import Processes
from xlt.engine.training import Interrupted

USAGE = 2
FAILURE = 1


def main() -> None:
    """Entry point. Exit codes: 0 done, 1 a run failed, 2 wrong input, 128 + signal stopped with its state saved."""
    register_schemas()
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra then raises what it would print over many lines
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore", category=UserWarning, module="hydra")
    try:
        _hydra_main()
    except (HydraException, OmegaConfBaseException) as error:
        overrides = [word for word in sys.argv[1:] if "=" in word or word.startswith("~")]
        stray = [word for word in sys.argv[1:] if not word.startswith(("-", "~", "+")) and "=" not in word]
        lines = [f"{word}: not an override; write key=value" for word in stray]
        with hydra_ready():
            lines += override_faults([word for word in overrides if not word.startswith("-")])
        refuse(lines or [one_line(error)])


@hydra.main(config_path=f"pkg://{CONFIG_MODULE}", config_name="config", version_base=VERSION_BASE)
def _hydra_main(config: DictConfig) -> None:
    guarded(lambda: run(config))


def run(config: DictConfig) -> int:
    """Plans one config, does what is missing, shows what came out; returns the exit code."""
    from xlt.results.execution import carry_out
    from xlt.results.planner import Plan
    from xlt.results.render import print_evaluations, print_plan
    from xlt.results.store import RunStore
    from xlt.tracking.watch import watch

    console = Console(stderr=True, quiet=not Processes.join().leads)
    store = RunStore(config.output_dir)
    plan = Plan(store)
    asked = plan.add(config)
    plan.preflight()
    if len(plan.runs) > 1:
        print_plan(plan, console)
    outcome = carry_out(plan, asked.config.launcher.workers, watch)
    if outcome.failures:
        for fingerprint, reason in outcome.failures.items():
            console.print(f"{plan.runs[fingerprint].label}: {reason}", style="red", highlight=False, soft_wrap=True)
        return USAGE if outcome.refused else FAILURE
    if Processes.join().leads:
        print_evaluations(asked, store, Console())
    return 0


def guarded(action: Callable[[], int]) -> None:
    """Runs an action of a command; wrong input is one line each and exit code 2, an interruption says how to go on."""
    from xlt.modules import ModuleFileError

    try:
        code = action()
    except UsageError as error:
        refuse(error.lines)
    except ModuleFileError as error:
        refuse([str(error)])
    except Interrupted as stop:
        print(str(stop), file=sys.stderr)
        sys.exit(128 + stop.signal)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    if code:
        sys.exit(code)


def refuse(lines: Sequence[str]) -> None:
    """Says what is wrong with the input, a line each, and exits with 2."""
    for line in lines:
        print(f"xlt: {line}", file=sys.stderr)
    sys.exit(USAGE)
