"""Prints tables, plans and evaluations in terminals of any width, and formats tables as Markdown."""

from __future__ import annotations

import re
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from xlt.console import duration
from xlt.engine.run import Composition
from xlt.escapes import markdown_text
from xlt.plan.planner import Plan, Run
from xlt.plan.store import RunStore
from xlt.tables.blocks import Shown, print_blocks
from xlt.tables.config import AVERAGE
from xlt.tables.grid import Cell, Grid, decimals_of, score_of
from xlt.tables.scoreboard import (
    FACT_NAMES,
    extremes,
    fact_words,
    is_scoreboard,
    language_groups,
    name_of,
    shown_mean,
)

FEWER_SEEDS = "‡"
"""Mark of a cell whose mean is not over all seeds of the table."""
_SYSTEMS_AS_COLUMNS = 6
_MOST_ROWS = 40  # of a plan that are read
_WORTH_SAYING_BYTES = 100_000_000


def table_markdown(grid: Grid) -> str:
    """Returns the table as Markdown: systems are rows, best means are bold, published numbers are in brackets."""
    config, columns, best = grid.config, grid.columns, best_systems(grid)
    lines = [f"# {markdown_text(config.title)}", "", markdown_text(legend(grid)), ""]
    if is_scoreboard(grid):
        return "\n".join([*lines, *_scoreboard_markdown(grid)]) + "\n"
    lines.append("| | " + " | ".join(map(markdown_text, columns)) + " |")
    lines.append("|---|" + "---:|" * len(columns))
    for name, system in config.systems.items():
        shown = []
        for column in columns:
            text = _cell(grid, name, column)
            shown.append(f"**{text}**" if name in best[column] else text)
        lines.append(f"| {markdown_text(system.label)} | " + " | ".join(shown) + " |")
    if below := [*best_settings(grid), *stand_in_lines(grid)]:
        lines += ["", *(f"- {markdown_text(line)}" for line in below)]
    if empty := holes(grid):
        lines += ["", "Holes:", "", *(f"- {markdown_text(hole)}" for hole in empty)]
    if config.note:
        lines += ["", *_note_markdown(config.note)]
    return "\n".join(lines) + "\n"


def print_table(grid: Grid, console: Console) -> None:
    """Prints the table with systems as columns and languages as rows, so that it fits a narrow terminal.

    If there are many systems, as in a search, systems are rows.
    """
    if is_scoreboard(grid):
        _print_scoreboard(grid, console)
        return
    best = best_systems(grid)
    config, columns = grid.config, grid.columns

    def shown(name: str, column: str) -> Shown:
        return _cell(grid, name, column), "bold" if name in best[column] else ""

    console.print(Text(config.title, style="table.title"))
    if config.searches or len(config.systems) > _SYSTEMS_AS_COLUMNS:
        rows = [(system.label, [shown(name, c) for c in columns]) for name, system in config.systems.items()]
        print_blocks(console, columns, rows)
    else:
        rows = [(column, [shown(name, column) for name in config.systems]) for column in columns]
        print_blocks(console, [system.label for system in config.systems.values()], rows, line_above=AVERAGE)
    console.print(Text(legend(grid), style="table.caption"))
    for line in (*best_settings(grid), *stand_in_lines(grid)):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    for hole in holes(grid):
        console.print(f"hole: {hole}", highlight=False, markup=False)
    if config.note:
        console.print(config.note, highlight=False, markup=False)


def _scoreboard_markdown(grid: Grid) -> list[str]:
    """Returns the lines of a table of groups and of a table of languages."""
    config = grid.config
    labels = [markdown_text(system.label) for system in config.systems.values()]
    numbers = "---:|" * len(labels)
    lines = [f"| group | languages | {' | '.join(labels)} |", f"|---|---:|{numbers}"]
    for group in language_groups(grid):
        name = f"{group.kind}: {group.name}" if group.kind else group.name
        shown = (shown_mean(grid, system, group) for system in config.systems)
        lines.append(f"| {markdown_text(name)} | {len(group.columns)} | {' | '.join(shown)} |")
    lines += ["", f"| code | language | {' | '.join(FACT_NAMES)} | {' | '.join(labels)} |"]
    lines.append("|---|---|---|---|---:|---:|---:|" + numbers)
    for column in config.columns:
        scores = (_cell(grid, system, column) for system in config.systems)
        words = (column, name_of(grid, column), *fact_words(grid.languages.get(column)), *scores)
        lines.append(f"| {' | '.join(map(markdown_text, words))} |")
    lines += ["", *(f"- {markdown_text(line)}" for line in (*stand_in_lines(grid), *holes(grid)))]
    return [*lines, "", *_note_markdown(config.note)] if config.note else lines


def _note_markdown(note: str) -> list[str]:
    """Returns the lines of a note as Markdown; none of them begins a heading, a list or a table."""
    lines = note.split("\n")
    return [
        f"Note: {markdown_text(line)}" if line.startswith(tuple("#->+=[")) else markdown_text(line) for line in lines
    ]


def _print_scoreboard(grid: Grid, console: Console) -> None:
    """Prints the means of groups, and the languages with the largest and smallest scores of each system."""
    config = grid.config
    console.print(Text(config.title, style="table.title"))
    rows = []
    for group in language_groups(grid):
        shown: list[Shown] = [(shown_mean(grid, system, group), "") for system in config.systems]
        rows.append((f"{group.name} ({len(group.columns)})", shown))
    print_blocks(console, [system.label for system in config.systems.values()], rows)
    console.print(Text(legend(grid), style="table.caption"))
    for name, system in config.systems.items():
        for words, columns in zip(("largest", "smallest"), extremes(grid, name), strict=True):
            if columns:
                scores = ", ".join(
                    f"{column} {grid.cells[name][column].mean:.{grid.decimals(column)}f}" for column in columns
                )
                console.print(f"{system.label}, {words}: {scores}", highlight=False, markup=False, soft_wrap=True)
    for line in (*stand_in_lines(grid), *(f"hole: {hole}" for hole in holes(grid)), *filter(None, [config.note])):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def print_plan(plan: Plan, console: Console, *, short: bool = False) -> None:
    """Prints which runs exist, which will be carried out in which order, and how long similar past runs took.

    Args:
        plan: the runs.
        console: output.
        short: of a plan of very many runs, print only how many there are of each experiment and method.
    """
    rows = plan.rows()
    short = short and len(rows) > _MOST_ROWS
    drawn = RichTable(title="Plan", title_justify="left")
    drawn.add_column("runs" if short else "run", overflow="fold")
    drawn.add_column("to do", overflow="fold")
    known = [seconds for _, _, seconds in rows if seconds is not None]
    if known:
        drawn.add_column("past runs took", justify="right", overflow="fold")
    existing = sum(state == "exists" for _, state, _ in rows)
    for label, state, seconds in _by_kind(rows) if short else rows:
        took = ["" if seconds is None else duration(seconds)] if known else []
        drawn.add_row(Text(label), Text(state), *took)
    console.print(drawn)
    total = f"; past runs of their kinds took {duration(sum(known))} one after the other" if known else ""
    noun = "run" if len(rows) == 1 else "runs"
    console.print(
        f"{len(rows)} {noun}: {existing} exist, {len(rows) - existing} to do{total}", highlight=False, soft_wrap=True
    )
    if short:
        console.print("--plan lists them one by one", highlight=False)
    print_other_code(plan, console)
    count, size = plan.abandoned_state()
    if size >= _WORTH_SAYING_BYTES:
        command = f"xlt state output_dir={plan.store.root}"
        line = f"{count} unfinished runs outside of this plan keep {size / 1e9:.1f} GB of state; {command} lists them"
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _by_kind(rows: Sequence[tuple[str, str, float | None]]) -> Iterator[tuple[str, str, float | None]]:
    """Yields a row for each experiment and method: its name, how many runs have what to do, and the seconds of all."""
    kinds: dict[str, list[tuple[str, float | None]]] = {}
    for label, state, seconds in rows:
        kinds.setdefault(" ".join(label.split()[:2]), []).append((re.sub(r" \d+", "", state), seconds))
    for kind, runs in kinds.items():
        counts = Counter(state for state, _ in runs)
        known = [seconds for _, seconds in runs if seconds is not None]
        yield kind, ", ".join(f"{count} {state}" for state, count in counts.items()), sum(known) if known else None


def print_notes(notes: Iterable[str], console: Console) -> None:
    """Prints lines about the data, such as the number of rows that are left out."""
    for note in notes:
        console.print(f"note: {note}", highlight=False, markup=False, soft_wrap=True)


def print_other_code(plan: Plan, console: Console) -> None:
    """Prints a line about runs of other code that the plan uses, and one about those that it could use."""
    for runs, advice in (
        (plan.made_by_other_code(), "trained again; other_code=use takes {} instead"),
        (list(plan.other_code.used.values()), "used unchanged; other_code=train trains {} again"),
    ):
        if runs:
            last = max(runs, key=lambda run: run.finished)
            those, are, them = ("1 run", "is", "it") if len(runs) == 1 else (f"{len(runs)} runs", "are", "them")
            line = f"{those} that other code made ({last}) {are} {advice.format(them)}"
            console.print(line, highlight=False, markup=False, soft_wrap=True)


def print_evaluations(run: Run, evaluations: Mapping[str, Composition], store: RunStore, console: Console) -> None:
    """Prints the scores of one run, languages by compositions, and says where its module is.

    Args:
        run: a trained run.
        evaluations: key -> composition, as the command requested; the run's other evaluations are not printed.
        store: the store with the scores.
        console: output.
    """
    result = store.result(run.fingerprint)
    metric = result.get("metric", "")
    done = store.evaluations(run.fingerprint)
    grid: dict[str, dict[str, float]] = {}
    signatures: dict[str, None] = {}
    for key, composition in evaluations.items():
        if key in done:
            signatures |= dict.fromkeys(done[key].get("signatures", {}).values())
            grid.setdefault(composition.source, {})[composition.label] = score_of(done[key], metric)
    if grid:
        labels = list(dict.fromkeys(label for row in grid.values() for label in row))
        console.print(Text(f"{run.label}: {metric}", style="table.title"))
        rows = [(source, _scores(row, labels, metric)) for source, row in grid.items()]
        print_blocks(console, labels, rows)
    for signature in signatures:
        console.print(signature, highlight=False, markup=False, soft_wrap=True)
    training = result.get("training", {})
    if f"best/{metric}" in training:
        value = f"{metric} {training[f'best/{metric}']:.4g}"
        best = f"best validation {value} at step {training['best/step']}"
        console.print(
            f"{f'validation {value} of the average' if 'averaged' in training else best}, "
            f"{duration(training['seconds'])} of training",
            highlight=False,
            markup=False,
        )
    module = store.module_file(run.fingerprint)
    console.print(f"module: {module}", highlight=False, markup=False, soft_wrap=True)


@dataclass(frozen=True)
class SweepRow:
    """The result of one job of a sweep.

    Attributes:
        number, overrides: of the job, as in Hydra.
        state: done, existed, failed, not tried, not finished or refused.
        scores: label of a composition -> mean score over the evaluation data.
        reason: why the job has no result; None if it has one.
        metric: of the scores; empty if there are none.
    """

    number: int
    overrides: str
    state: str
    scores: dict[str, float]
    reason: str | None
    metric: str = ""


def mean_scores(run: Run, evaluations: Mapping[str, Composition], store: RunStore) -> dict[str, float]:
    """Averages the run's metric over the sources that were evaluated, for each label of a composition.

    Args:
        run: whose module was evaluated.
        evaluations: key -> composition, as one config requested. Several configs may request different modules under
            the same label, so `run.evaluations` must not be averaged.
        store: the store with the scores.
    Returns:
        Label -> mean; without labels of which an evaluation is not finished, since a mean over fewer is another number.
    """
    metric, done = store.result(run.fingerprint).get("metric", ""), store.evaluations(run.fingerprint)
    keys: dict[str, list[str]] = {}
    for key, composition in evaluations.items():
        keys.setdefault(composition.label, []).append(key)
    return {
        label: statistics.fmean(score_of(done[key], metric) for key in own)
        for label, own in keys.items()
        if all(key in done for key in own)
    }


def print_sweep(rows: Sequence[SweepRow], console: Console, notes: Iterable[str] = ()) -> None:
    """Prints the result of each job, and below the table notes about them and the reasons of jobs without one."""
    labels = list(dict.fromkeys(label for row in rows for label in row.scores))
    styles = {"failed": "red", "refused": "red", "not tried": "yellow", "not finished": "yellow"}
    console.print(Text("Sweep", style="table.title"))
    print_blocks(
        console,
        ["", *labels],
        [
            (
                f"{row.number} {row.overrides}",
                [(row.state, styles.get(row.state, "")), *_scores(row.scores, labels, row.metric)],
            )
            for row in rows
        ],
        corner="job",
    )
    for note in notes:
        console.print(note, highlight=False, markup=False, soft_wrap=True)
    for row in rows:
        if row.reason is not None and row.state != "refused":
            line = f"job {row.number} {row.state}: {row.reason}"
            console.print(line, highlight=False, markup=False, soft_wrap=True)
    counts = Counter(row.state for row in rows)
    console.print(", ".join(f"{count} {state}" for state, count in counts.items()), highlight=False)


def _scores(by_label: Mapping[str, float], labels: Sequence[str], metric: str) -> list[Shown]:
    decimals = decimals_of(metric)
    return [(f"{by_label[label]:.{decimals}f}" if label in by_label else "-", "") for label in labels]


def _cell(grid: Grid, system: str, column: str) -> str:
    cell: Cell = grid.cells[system][column]
    decimals = grid.decimals(column)
    spread = f"±{cell.spread:.{decimals}f}" if cell.spread is not None else ""
    mark = "†" * (cell.stand_in is not None) + FEWER_SEEDS * grid.lacks_seeds(system, column)
    text = f"{cell.mean:.{decimals}f}{spread}{mark}" if cell.values else "-"
    published = grid.config.reference.get(system, {}).get(column)
    return text if published is None else f"{text} ({published:.{decimals}f})"


def best_systems(grid: Grid) -> dict[str, set[str]]:
    """Returns column -> the systems with the best mean in it, as rounded for the table."""
    best = {}
    for column in grid.columns:
        choose = max if grid.greater_is_better(column) else min
        means = {name: row[column].mean for name, row in grid.cells.items() if row[column].values}
        shown = {name: round(mean, grid.decimals(column)) for name, mean in means.items()}
        top = choose(shown.values(), default=None)
        best[column] = {name for name, mean in shown.items() if mean == top}
    return best


def best_settings(grid: Grid) -> list[str]:
    """Returns lines about each search: the setting with the best average, the published best one, the Pareto set."""
    choose, lines = max if grid.greater_is_better(AVERAGE) else min, []
    for name, search in grid.config.searches.items():
        label = next(
            (
                one.label.removesuffix(system.removeprefix(f"{name} "))
                for system, one in grid.config.systems.items()
                if system.startswith(f"{name} ")
            ),
            name,
        )
        means = {
            system.removeprefix(f"{name} "): row[AVERAGE].mean
            for system, row in grid.cells.items()
            if system.startswith(f"{name} ") and row[AVERAGE].values
        }
        if means:
            published = f"; {grid.config.reference_name}: {search.best}" if search.best is not None else ""
            lines.append(f"{label.strip()}: {choose(means, key=means.__getitem__)} is best{published}")
        if (found := grid.pareto_sets.get(name)) is not None:
            columns = ", ".join(grid.config.columns)
            lines.append(
                f"{label.strip()}: Pareto set over {columns} ({len(found.settings)} of {found.complete} settings; no "
                f"other is better in one and worse in none): {'; '.join(found.settings)}"
            )
    return lines


def legend(grid: Grid) -> str:
    """Returns a line that says what the numbers of the table are."""
    config, seeds = grid.config, len(grid.seeds)
    text = f"{config.metric}, mean ± standard deviation over {seeds} seeds" if seeds > 1 else config.metric
    has_average = AVERAGE in grid.columns and config.scoreboard is None
    averaged = f"; {AVERAGE} {over}" if has_average and (over := _averaged_over(grid)) else ""
    fewer = any(grid.lacks_seeds(name, column) for name in grid.cells for column in grid.columns)
    marked = f"; {FEWER_SEEDS}: over fewer seeds" if fewer else ""
    return text + averaged + (f"; in brackets: {config.reference_name}" if config.reference else "") + marked


def _averaged_over(grid: Grid) -> str:
    """Says which columns the average is over; empty if it is over all."""
    over = grid.config.average or grid.config.columns
    others = [column for column in grid.config.columns if column not in over]
    if not others:
        return ""
    return f"without {', '.join(others)}" if len(others) <= len(over) else f"over {', '.join(over)}"


def stand_in_lines(grid: Grid) -> list[str]:
    """Returns a line for each system evaluated with modules of other languages, with the languages in question."""
    lines = []
    for name, columns in grid.stand_ins.items():
        pairs = ", ".join(f"{column}: {language}" for column, language in columns.items())
        label = grid.config.systems[name].label
        lines.append(f"† {label}: the model has a module of another language, or none: {pairs}")
    return lines


def holes(grid: Grid) -> list[str]:
    """Returns a line for each reason why cells are missing, with the systems that it concerns."""
    systems: dict[str, dict[str, None]] = {}
    for name, row in grid.cells.items():
        for reason in {cell.reason for cell in row.values() if cell.reason}:
            systems.setdefault(reason, {})[grid.config.systems[name].label] = None
    number = len({system.label for system in grid.config.systems.values()})
    return sorted(
        f"{'all systems' if len(labels) == number > 1 else ', '.join(labels)}, {reason}"
        for reason, labels in systems.items()
    )
