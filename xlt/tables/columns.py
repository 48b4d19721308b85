"""The columns of a grid: which languages there are, which of them a row has, and facts about each."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from itertools import islice

from omegaconf import DictConfig, OmegaConf

from xlt.compose import compose
from xlt.data.encoding import Encoder
from xlt.data.language_facts import LanguageFacts, language_facts
from xlt.data.listing import EVERY
from xlt.data.overlap import texts_of
from xlt.data.sources import read_source
from xlt.data.typology import Typology, load_typology
from xlt.errors import UsageError
from xlt.models.loading import load_tokenizer
from xlt.modules.composition.expression import Operation, operation
from xlt.plan.planner import Run
from xlt.tables.config import GridConfig, SystemConfig

_MOST_EXAMPLES = 200  # of a language, from which facts about it are computed
_LISTED = "listed"


def list_columns(grid: GridConfig, overrides: Sequence[str]) -> GridConfig:
    """Returns the grid with all its columns listed, where it asks for every language that there is.

    Args:
        grid: its columns may be "*"; its systems may ask for languages of which a source has data (`with_data_of`).
        overrides: the user's, for every run.
    Raises:
        UsageError: a config cannot be composed, or the languages of a source cannot be listed.
    """
    partly = {name: system.with_data_of for name, system in grid.systems.items() if system.with_data_of is not None}
    if EVERY in grid.columns and grid.systems:
        composed = compose(run_words(grid, next(iter(grid.systems.values())), overrides, None))
        every = [str(name) for name in composed.data.evaluation]
        columns = [name for column in grid.columns for name in (every if column == EVERY else [column])]
        grid = dataclasses.replace(grid, columns=list(dict.fromkeys(columns)))
    columns_of = {
        name: _columns_with_data(grid, grid.systems[name], overrides, source) for name, source in partly.items()
    }
    return dataclasses.replace(grid, columns_of=columns_of)


SHOWN = "compositions.shown"
"""Key of the composition whose scores a system shows."""


def run_words(config: GridConfig, system: SystemConfig, overrides: Sequence[str], column: str | None) -> list[str]:
    """Returns the overrides that compose a system's run, as they would be written after `xlt`.

    Args:
        config: of the grid.
        system: one of the grid's systems.
        overrides: the user's, which come last and so take precedence.
        column: replaces {column}.
    """
    shown = f"+composition@{SHOWN}={system.composition}"
    words = [f"experiment={system.experiment}", shown, *config.overrides, *system.overrides, *overrides]
    return [word.replace("{column}", column or "") for word in words]


def shown_expression(composed: DictConfig) -> Operation:
    """Returns the composition whose scores a system shows.

    Args:
        composed: of `run_words`.
    Raises:
        UsageError: the expression has faults.
    """
    return operation(OmegaConf.to_container(OmegaConf.select(composed, SHOWN), resolve=True), SHOWN)


def shown_label(composed: DictConfig) -> str:
    """Returns the label of the scores that a system shows; see `shown_expression`."""
    return str(shown_expression(composed))


def _columns_with_data(grid: GridConfig, system: SystemConfig, overrides: Sequence[str], source: str) -> list[str]:
    """Returns the columns in whose language, or in the one that stands in for it, a source of conf/source has data."""
    words = run_words(grid, system, overrides, None)
    words += [f"+source@data.excluded.{_LISTED}={source}", f"data.excluded.{_LISTED}.languages=['{EVERY}']"]
    config = compose(words)
    there = {str(name) for name in config.data.excluded}
    names = [name for name in grid.sources if name in config.data.evaluation]
    return [name for name in names if _used_language(config, config.data.evaluation[name].language) in there]


def _used_language(config: DictConfig, language: str) -> str:
    return str(config.language_modules.stand_in.get(language, language))


def column_facts(run: Run, columns: Sequence[str]) -> dict[str, LanguageFacts]:
    """Returns column -> facts about its language; a column whose data cannot be read has none.

    Args:
        run: has the columns' sources, and the model whose tokenizer cuts their texts.
        columns: names in the run's evaluation data.
    """
    config = run.config
    if config.model.path is None:
        return {}
    encoder = _encoder(config.model.path, config.model.revision, config.model.trust_remote_code)
    source_language = next(iter(config.data.sources.values())).language
    typology = _typology(config.language_modules.typology)
    facts = {}
    for name in columns:
        source = run.planned_data.evaluation[name]
        try:
            examples = islice(read_source(f"data.evaluation.{name}", source, config.seed), _MOST_EXAMPLES)
            texts = [text for example in examples for text in texts_of(example)]
        except UsageError:  # the hub does not answer, or another run must make the source
            continue
        facts[name] = language_facts(source.language, texts, encoder, typology, source_language)
    return facts


@functools.cache
def _encoder(path: str, revision: str | None, trust_remote_code: bool) -> Encoder:
    return Encoder(load_tokenizer(path, revision, trust_remote_code=trust_remote_code))


def _typology(path: str | None) -> Typology | None:
    try:
        return load_typology(path)
    except UsageError:
        return None
