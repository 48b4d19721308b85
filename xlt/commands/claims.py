"""The command `xlt claims`, which checks the claims in conf/claims.yaml."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from omegaconf import OmegaConf, SCMode

from xlt.commands.ending import guarded
from xlt.commands.help_texts import help_of
from xlt.commands.subcommands import is_stray
from xlt.compose import (
    COMPOSITION_ERRORS,
    command_line,
    compose,
    hydra_ready,
    is_composition_error,
    override_faults,
    register_schema,
    strangers,
)
from xlt.compose.composing import composed
from xlt.compose.environment import count_asked, refuse_environment
from xlt.compose.overrides import key_of
from xlt.config import faults
from xlt.console import Terminal
from xlt.errors import UsageError
from xlt.files import write_json
from xlt.findings.claims import (
    ClaimsConfig,
    ComparisonConfig,
    Finding,
    Row,
    Value,
    as_record,
    correct,
    examine,
    requested_claims,
    used_columns,
    without_cells,
)
from xlt.findings.report import claims_markdown, print_claims
from xlt.plan.planner import Plan
from xlt.plan.store import RunStore
from xlt.tables.config import GridConfig
from xlt.tables.pareto import LOWER_IS_BETTER
from xlt.tables.request import as_shown, changes_table, request_table
from xlt.tables.table import Table

_COMMAND_KEYS = tuple(item.name for item in dataclasses.fields(ClaimsConfig))
_DEFAULT_STORE = "encoder"
"""Name of the store to whose runs the command's other overrides apply."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command; the entry point of the script."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    with command_line(words):
        guarded(lambda: check_claims(words))


def check_claims(words: list[str]) -> int:
    """Reads the cells of every claim from the stores, tests the claims and writes the report; returns the exit code.

    Raises:
        UsageError: wrong overrides or values.
    """
    if "--help" in words or "-h" in words:
        print(help_of("claims"))
        return 0
    if wrong := [word for word in words if is_stray(word)]:
        raise UsageError(*(f"{word}: neither an option nor an override; write KEY=VALUE" for word in wrong))
    settings = [word for word in words if key_of(word).split(".")[0] in _COMMAND_KEYS]
    with hydra_ready():
        config = compose_claims(settings)
        config.stores[_DEFAULT_STORE].overrides += [word for word in words if word not in settings]
        if unfit := [line for name in config.stores for line in _unfit_overrides(config, name)]:
            raise UsageError(*unfit)
        folder = Path(config.output_dir).expanduser()
        with _writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        findings = _findings(config)
    for claim_findings in findings.values():
        correct(claim_findings.values())
    claims = requested_claims(config)
    records = [as_record(name, findings[name], config) for name in claims]
    trial = dataclasses.asdict(config.trial)
    asked = {name: changes for name, store in config.stores.items() if (changes := _changes(store.overrides))}
    record = {"scale": config.scale, "trial": trial, **({"asked_for_with": asked} if asked else {}), "claims": records}
    with _writing(folder):
        write_json(folder / "claims.json", record)
        (folder / "claims.md").write_text(claims_markdown(claims, findings, config, asked), encoding="utf-8")
    print_claims(claims, findings, config, Terminal(), asked)
    Terminal(stderr=True).print(f"{folder / 'claims'}.md and .json", highlight=False, soft_wrap=True)
    return 0


def _changes(overrides: Sequence[str]) -> list[str]:
    return [as_shown(word) for word in overrides if changes_table(word)]


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UsageError(f"output_dir={folder}: cannot be written to ({error.strerror})") from error


def compose_claims(settings: list[str]) -> ClaimsConfig:
    """Composes and checks the claims and the settings of the command.

    Raises:
        UsageError: wrong overrides or values.
    """
    register_schema("base_claims", ClaimsConfig)
    listed = compose(settings, config_name="claims")
    before = count_asked()
    config = OmegaConf.to_container(
        listed, resolve=True, throw_on_missing=False, structured_config_mode=SCMode.INSTANTIATE
    )
    refuse_environment(listed, before)
    fault_lines = [*strangers(listed), *faults(config)]
    if fault_lines:
        raise UsageError(*fault_lines)
    assert isinstance(config, ClaimsConfig)
    return config


def _unfit_overrides(config: ClaimsConfig, name: str) -> list[str]:
    """Returns a line for each override of a store that fits none of the runs of its tables.

    An override that fits only some of the runs is not reported here: for the other runs, the findings of their tests
    say why there are no numbers.
    """
    overrides = config.stores[name].overrides
    if seed := [word for word in overrides if key_of(word) == "seed"]:
        return [f"{seed[0]}: claims are tested on several seeds; write seeds=[1,2,3]"]
    unfit, first = list(overrides), None
    for words in _run_words(config, name) if overrides else ():
        first = first or words
        if _fit([*words, *overrides]):
            return []
        unfit = [override for override in unfit if not _fit([*words, override])]
        if not unfit:
            return []
    if first is None:
        return []
    lines = {line.partition(": ")[0]: line for line in override_faults([*first, *overrides])}
    where = "" if name == _DEFAULT_STORE else f"with stores.{name}.overrides: "
    return [
        where + (lines.get(override) or next(strangers(composed("config", [*first, override])))) for override in unfit
    ]


def _fit(words: Sequence[str]) -> bool:
    try:
        return not any(strangers(composed("config", words)))
    except COMPOSITION_ERRORS as error:
        if not is_composition_error(error):
            raise
        return False


def _run_words(config: ClaimsConfig, name: str) -> Iterator[list[str]]:
    """Yields the words that choose config groups for a store's runs; equal ones only once.

    The runs are those of the requested claims or, if no requested claim uses the store, those of all claims. Words
    about the data mix take most of the time of composing, so they are left out unless an override is about the mix.
    """
    requested, every = (
        [test for claim in claims.values() for test in claim.tests.values() if test.store == name]
        for claims in (requested_claims(config), config.claims)
    )
    changes_mix = any(
        word.lstrip("+~").startswith(("data.", "data=", "source@")) for word in config.stores[name].overrides
    )
    seen = set()
    tested = [(test.table, test.heading) for test in requested or every if config.scale not in test.lacking]
    for table, heading in dict.fromkeys(tested):
        shown = TableScores(table, heading, config.scale, [], [], Plan(RunStore(config.output_dir)), name).config()
        for system in shown.systems.values():
            words = [f"experiment={system.experiment}", f"scale={config.scale}", *shown.overrides, *system.overrides]
            choices = tuple(
                word.replace("{column}", next(iter(shown.sources), ""))
                for word in words
                if "." not in word.partition("=")[0] and (changes_mix or not word.startswith("data="))
            )
            if choices not in seen:
                seen.add(choices)
                yield list(choices)


def _findings(config: ClaimsConfig) -> dict[str, dict[str, Finding]]:
    """Returns claim -> test -> its finding."""
    claims = requested_claims(config)
    tests = [test for claim in claims.values() for test in claim.tests.values()]
    scores: dict[tuple[str, str, str], TableScores] = {}
    plans = {name: Plan(RunStore(store.output_dir)) for name, store in config.stores.items()}
    for name, store in config.stores.items():
        for table, heading in dict.fromkeys((test.table, test.heading) for test in tests if test.store == name):
            place = (name, table, heading)
            columns = used_columns(test for test in tests if (test.store, test.table, test.heading) == place)
            words = [*store.overrides, f"scale={config.scale}", f"output_dir={store.output_dir}"]
            scores[place] = TableScores(table, heading, config.scale, columns, words, plans[name], name)
    findings: dict[str, dict[str, Finding]] = {}
    for claim_name, claim in claims.items():
        findings[claim_name] = {}
        for label, test in claim.tests.items():
            table_scores, seeds = scores[test.store, test.table, test.heading], config.stores[test.store].seeds
            findings[claim_name][label] = without_cells(test, config.scale) or examine(
                test, table_scores.row, table_scores.languages, seeds, config.trial
            )
    return findings


class TableScores:
    """The scores in a store for one heading of a table; a system is composed when it is first needed.

    Args:
        name, heading: of the table.
        scale: mini or thesis.
        columns: columns that claims use; they are looked up together with those of the average.
        overrides: Hydra overrides for every run.
        plan: the store's plan, to which runs are added.
        store: name of the store in the config.
    """

    def __init__(
        self, name: str, heading: str, scale: str, columns: list[str], overrides: list[str], plan: Plan, store: str
    ) -> None:
        self._name, self._heading, self._scale = name, heading, scale
        self._overrides, self._plan, self._store = overrides, plan, store
        self._named = columns
        self._config: GridConfig | None = None
        self._rows: dict[tuple[str, int, str | None], Row | UsageError] = {}
        self._told_apart: dict[tuple[str, ...], UsageError | None] = {}

    def languages(self, columns: Sequence[str]) -> list[str]:
        """Replaces groups among columns by their members; without columns, takes those of the table's average.

        Raises:
            UsageError: there is no such table, or it has no such column.
        """
        config = self.config()
        for column in columns:
            if column not in (*config.columns, *config.sources):
                raise UsageError(f"table {self._name} has no column {column}; there are {', '.join(config.columns)}")
        columns = columns or config.average or config.columns
        return list(dict.fromkeys(name for column in columns for name in config.groups.get(column, [column])))

    def row(self, comparison: ComparisonConfig, system: str, seed: int) -> Row:
        """Returns the scores of a system, or its costs per example, that are in the store.

        Raises:
            UsageError: the table has no such system, the system cannot be composed, or an override makes the systems of
                the comparison equal.
        """
        systems = (comparison.better, comparison.worse, *comparison.over)
        if systems not in self._told_apart:
            self._told_apart[systems] = self._made_equal(systems, seed)
        if (equal := self._told_apart[systems]) is not None:
            raise equal
        key = (system, seed, comparison.cost)
        if key not in self._rows:
            try:
                self._rows[key] = self._look_up(*key)
            except UsageError as error:
                self._rows[key] = error
        row = self._rows[key]
        if isinstance(row, UsageError):
            raise row
        return row

    def _made_equal(self, systems: Sequence[str], seed: int) -> UsageError | None:
        """Returns the error if an override takes the place of what tells systems apart; their difference would be 0."""
        if not _changes(self._overrides) or any(name not in self.config().systems for name in systems):
            return None
        languages = list(dict.fromkeys([*self.languages([]), *self.languages(self._named)]))
        try:
            Table(self._name, self._shown(systems, languages), [seed], self._overrides, Plan(self._plan.store))
        except UsageError as error:
            return self._of_store(error)
        return None

    def _shown(self, systems: Sequence[str], languages: list[str]) -> GridConfig:
        """Returns the config of the grid with some of its systems, and with languages as its columns."""
        config = self.config()
        return dataclasses.replace(
            config,
            systems={name: config.systems[name] for name in systems},
            searches={},
            reference={},
            columns=languages,
            groups={},
            average=[],
            figure=None,
        )

    def _of_store(self, error: UsageError) -> UsageError:
        """Returns the error with the name of the store whose overrides are wrong, unless it is the usual one."""
        if self._store == _DEFAULT_STORE:
            return error
        return UsageError(*(f"with stores.{self._store}.overrides: {line}" for line in error.lines))

    def _look_up(self, system: str, seed: int, cost: str | None) -> Row:
        config = self.config()
        if system not in config.systems:
            raise UsageError(f"table {self._name} has no system {system}; there are {', '.join(config.systems)}")
        if cost is None and config.metric in LOWER_IS_BETTER:
            raise UsageError(f"table {self._name} has a {config.metric}, of which less is better; a claim needs scores")
        languages = list(dict.fromkeys([*self.languages([]), *self.languages(self._named)]))
        try:
            table = Table(self._name, self._shown([system], languages), [seed], self._overrides, self._plan)
            return self._values(table, system, seed, languages, cost)
        except UsageError as error:
            raise self._of_store(error) from error

    def _values(self, table: Table, system: str, seed: int, languages: list[str], cost: str | None) -> Row:
        if cost is not None:
            costs = {language: table.cost(system, seed, language, self._plan.store) for language in languages}
            run = {language: table.run(system, seed, language).fingerprint for language in languages}
            return {
                language: Value(language_costs[cost], run[language])
                for language, language_costs in costs.items()
                if cost in language_costs
            }
        cells = table.grid(self._plan.store, {}).cells[system]
        return {
            language: Value(cells[language].values[0], cells[language].backed_by[0])
            for language in languages
            if cells[language].values
        }

    def config(self) -> GridConfig:
        """Returns the config of the grid, with its systems and columns.

        Raises:
            UsageError: there is no such table or heading, or it has faults.
        """
        if self._config is None:
            grids = request_table([f"table={self._name}", f"scale={self._scale}"]).grids
            if not self._heading and len(grids) == 1:
                self._config = next(iter(grids.values()))
            elif self._heading in grids:
                self._config = grids[self._heading]
            else:
                raise UsageError(f"table {self._name} has no heading {self._heading}; there are {', '.join(grids)}")
        return self._config
