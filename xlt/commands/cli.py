"""The `xlt` command: it composes and checks a config, plans its runs, carries them out and prints the scores."""

from __future__ import annotations

import argparse
import difflib
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

import xlt
from xlt.commands.ending import FAILURE, USAGE, guarded, refuse
from xlt.commands.learned import OVERFIT, learned_line
from xlt.commands.run_mode import mode_from_command_line
from xlt.commands.searches import Search
from xlt.commands.subcommands import PLAN, carry_out_subcommand, is_stray, without_plug_ins, wrong_command
from xlt.commands.sweeps import Sweep, SweepFolder, TrialFailed, is_gathered, is_sweep
from xlt.commands.usage import register_help
from xlt.compose import (
    COMPOSITION_ERRORS,
    CONFIG_MODULE,
    VERSION_BASE,
    collected_less,
    command_line,
    hydra_ready,
    is_composition_error,
    one_line,
    one_source_per_language,
    override_faults,
    register_schemas,
    word_faults,
)
from xlt.compose.recipes import register_recipes
from xlt.compose.yaml_files import check_config_folder
from xlt.console import Terminal
from xlt.engine.processes import Processes
from xlt.errors import UsageError
from xlt.escapes import say
from xlt.plug_ins import config_folders
from xlt.tracebacks import os_error_line

if TYPE_CHECKING:
    from xlt.plan.planner import Plan, Run


def main() -> None:
    """Runs the command `xlt`; its entry point.

    Exit codes: 0 done; 1 a run failed; 2 wrong input; 128 + N stopped by signal N after the state was saved.
    With `--plan` a run or a sweep is planned and checked, and its plan printed; nothing is carried out.
    """
    if "--version" in sys.argv[1:]:
        print(f"xlt {xlt.__version__}, Hydra {hydra.__version__}")
        return
    if carry_out_subcommand(sys.argv[1:]):
        return
    if (line := wrong_command(sys.argv[1:])) is not None:
        refuse([line])
    words = without_plug_ins(sys.argv[1:])
    Sweep.plan_alone = PLAN in words
    sys.argv[1:] = _options_first([word for word in words if word != PLAN])
    try:
        options = _options(sys.argv[1:])
        register_schemas()
        register_recipes(CONFIG_MODULE, options.config_dir)
    except UsageError as error:
        refuse(error.lines)
    except OSError as error:  # a name on the command line is too long, or a folder cannot be read
        refuse([os_error_line(error)])
    register_help(shown=options.help)
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra then raises what it would print over many lines
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore", category=UserWarning, module="hydra")
    try:
        with (
            command_line(options.overrides),
            mode_from_command_line(CONFIG_MODULE, options.config_dir, options.config_path, *config_folders()),
        ):
            _hydra_main()
        if (sweep := Sweep.gathered) is not None:
            guarded(sweep.carry_out)
    except UsageError as error:
        refuse(error.lines)
    except COMPOSITION_ERRORS as error:
        if not is_composition_error(error):
            raise
        with hydra_ready(options.config_dir):
            if "Cannot find primary config" in str(error):  # without it no override can be checked
                refuse([one_line(error)])
            lines = override_faults(options.overrides, options.config_name or "config", options.multirun)
            refuse(lines or [one_line(error)])
    except TrialFailed as failed:
        sys.exit(failed.code)
    except OSError as error:  # of Hydra; those of a job are caught in it
        refuse([os_error_line(error)])
    finally:
        Sweep.gathered, Sweep.plan_alone = None, False
        Search.finish()
        SweepFolder.remove_if_unused()


@hydra.main(config_path=f"pkg://{CONFIG_MODULE}", config_name="config", version_base=VERSION_BASE)
def _hydra_main(config: DictConfig) -> float | None:
    """Carries out one run, or adds a job to a sweep; returns the best validation metric to a sweeper that searches."""
    with command_line(HydraConfig.get().overrides.task, outermost=True):  # in a process that Hydra started, too
        return _carry_out(config)


def _carry_out(config: DictConfig) -> float | None:
    for group in config.choices:
        # Replaces the interpolation by its value, because Hydra's resolver works only in this job.
        config.choices[group] = config.choices[group]
    if is_sweep() and is_gathered():
        Sweep.gathered = Sweep.gathered or Sweep()
        Sweep.gathered.add(config)
        return None
    value: float | None = None
    search = Search.job_begins() if is_sweep() else None

    def action() -> int:
        nonlocal value
        words, planned = HydraConfig.get().overrides.task, None if search is None else search.plan_made
        code, value = run(config, words, evaluate=not is_sweep(), planned=planned)
        return code

    try:
        guarded(action, str(config.output_dir))
    except SystemExit as stop:
        if is_sweep() and stop.code in (FAILURE, USAGE):
            if search is not None:
                search.job_ended("failed" if stop.code == FAILURE else "refused", None)
            raise TrialFailed(int(stop.code)) from stop
        raise
    SweepFolder.used = True
    if search is not None:
        search.job_ended("done", value)
    return value


def _options_first(words: Sequence[str]) -> list[str]:
    """Moves Hydra's options, with their values, before the overrides; Hydra takes none that stand between them."""
    takes_value = {
        name: action.nargs in (None, "?") for action in get_args_parser()._actions for name in action.option_strings
    }
    options: list[str] = []
    overrides: list[str] = []
    rest = iter(words)
    for word in rest:
        if not word.startswith("-"):
            overrides.append(word)
            continue
        options.append(word)
        if takes_value.get(word, False) and (value := next(rest, None)) is not None:
            is_override = "=" in value and word in ("--info", "-i")  # which needs no value
            (overrides if is_override else options).append(value)
    return [*options, *overrides]


def _options(words: Sequence[str]) -> argparse.Namespace:
    """Parses the command line with Hydra's parser.

    Faults for which Hydra would print a page of usage are refused here, with a line for each.
    """
    parser = get_args_parser()
    parser.error = lambda message: _refuse_option(parser, message)
    options = parser.parse_args(words)
    lines = [f"{word}: not an override; write KEY=VALUE" for word in options.overrides if is_stray(word)]
    hopeless = word_faults(options.overrides)
    if options.experimental_rerun is not None:
        lines.append("--experimental-rerun: refused, it would unpickle a file; give the overrides again")
    if options.resolve and options.cfg is None and not options.help:
        lines.append("--resolve: needs --cfg job")
    modes = (("--run", options.run), ("--cfg", options.cfg), ("--multirun", options.multirun), ("--info", options.info))
    given = [name for name, value in modes if value]
    if Sweep.plan_alone and (options.cfg or options.info):
        given.insert(0, PLAN)
    if len(given) > 1:
        lines.append(f"{' '.join(given)}: give one of them")
    config_dir = options.config_dir
    if config_dir is not None and not Path(config_dir).is_dir():
        # Overrides cannot be checked without the folder, because they may name files in it.
        refuse([*lines, f"--config-dir={config_dir}: no such folder"])
    if options.config_path is not None and Path(options.config_path).is_dir():
        check_config_folder(options.config_path)
    if hopeless:
        refuse([*lines, *hopeless])
    if lines:
        with hydra_ready(config_dir):
            right = [word for word in options.overrides if not is_stray(word)]
            refuse([*lines, *override_faults(right, options.config_name or "config", options.multirun)])
    return options


def _refuse_option(parser: argparse.ArgumentParser, message: str) -> NoReturn:
    _, marker, unknown = message.partition("unrecognized arguments: ")
    if not marker:
        refuse([message.removeprefix("argument ")])
    known = [name for action in parser._actions for name in action.option_strings]
    lines = []
    for word in unknown.split():
        near = difflib.get_close_matches(word.partition("=")[0], known, n=1, cutoff=0.7)
        advice = f"did you mean {near[0]}?" if near else "see xlt --help and xlt --hydra-help"
        lines.append(f"{word}: no such option; {advice}")
    refuse(lines)


def run(
    config: DictConfig,
    words: Sequence[str] = (),
    *,
    evaluate: bool = True,
    planned: Callable[[Plan, Run], None] | None = None,
) -> tuple[int, float | None]:
    """Plans the runs of one config, trains and evaluates what is missing, and prints the scores.

    Args:
        config: composed, not yet checked.
        words: the user's overrides; of those without effect a note is printed.
        evaluate: also evaluate the module on `data.evaluation`; False in a search, which must not use test sets.
        planned: is called with the plan and the requested run before anything is trained.
    Returns:
        The exit code, and the validation metric of the selected checkpoint.
    """
    from xlt.commands.cut_texts import say_cut_texts
    from xlt.execution.execution import carry_out
    from xlt.execution.workers import make_workers
    from xlt.plan.planner import Plan
    from xlt.plan.store import RunStore
    from xlt.plan.unheeded import unheeded
    from xlt.tables.terminal import print_evaluations, print_notes, print_other_code, print_plan
    from xlt.tracking.job_report import JobReport
    from xlt.tracking.wandb import check_account
    from xlt.tracking.watch import send_unsent, watch

    console = Terminal(stderr=True, quiet=not Processes.join().leads)
    store = RunStore(config.output_dir)
    plan = Plan(store)
    with collected_less():
        config = one_source_per_language(config)
        requested, evaluations = plan.ask(config) if evaluate else (plan.add(config, evaluate=False), {})
        if planned is not None:
            planned(plan, requested)
        print_notes([*plan.preflight(), *unheeded(requested.config, words, config)], console)
    if Sweep.plan_alone:
        print_plan(plan, Terminal(quiet=console.quiet))
        return 0, None
    new = {composition.entry for composition in plan.missing_evaluations(requested).values()}
    check_account(plan.to_do())
    if len(plan.runs) > 1:
        print_plan(plan, console, short=True)
    else:
        print_other_code(plan, console)
    workers = make_workers(requested.config.launcher, store.root / "cluster")
    if len(plan.runs) > 1:
        with JobReport(console, plan, requested.config.launcher) as report:
            outcome = carry_out(plan, workers, report.watcher_for, report)
    else:
        outcome = carry_out(plan, workers, watch)
    send_unsent(plan.runs.values(), store)
    if outcome.refused:
        raise UsageError(*(outcome.failures[fingerprint] for fingerprint in outcome.refused))
    for fingerprint, reason in outcome.failures.items():
        if fingerprint not in outcome.skipped:
            say(f"xlt: {plan.runs[fingerprint].label}: {reason}")
    if outcome.failures:
        if outcome.skipped:
            say(f"xlt: {len(outcome.skipped)} runs that need a failed run were not tried")
        return FAILURE, None
    if Processes.join().leads:
        print_evaluations(requested, evaluations, store, Terminal())
        say_cut_texts(requested, new)
        if config.choices.get("debug") == OVERFIT:
            Terminal().print(learned_line(store.metrics(requested.fingerprint)), soft_wrap=True)
    result = store.result(requested.fingerprint)
    return 0, result["training"].get(f"best/{result.get('metric')}")
