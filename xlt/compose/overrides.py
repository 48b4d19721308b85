"""Finds the overrides that do not fit, by trying each."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from xlt.compose.checking import checked
from xlt.compose.composing import composed
from xlt.compose.messages import COMPOSITION_ERRORS, is_composition_error, one_line
from xlt.compose.renamed import renamed
from xlt.config import RunConfig
from xlt.errors import UsageError

_LONGEST_SHOWN = 300  # in characters
_LONGEST_KEY = 255  # in characters; Hydra looks for a file of a group's name, and file systems take no longer one


def key_of(override: str) -> str:
    """Returns the key of an override: `train.max_steps` of `++train.max_steps=3`."""
    return override.partition("=")[0].lstrip("+~")


def word_faults(words: Sequence[str]) -> list[str]:
    """Returns a line for each override that cannot fit, whatever the configs are; nothing is composed for it."""
    every_run_has = {item.name for item in dataclasses.fields(RunConfig)}
    lines = []
    for word in words:
        key = key_of(word)
        if len(key) > _LONGEST_KEY:
            lines.append(f"{key[:40]}...: a key of {len(key)} characters; none has more than {_LONGEST_KEY}")
        elif word.startswith("~") and (name := key.partition("@")[0]) in every_run_has:
            lines.append(f"{_shown(word)}: every run has {name}, so it is not to be deleted; give {name}=... instead")
    return lines


def override_faults(overrides: Sequence[str], config_name: str = "config", sweep: bool = False) -> list[str]:
    """Returns a line for each override that does not fit; each is tried after the correct ones before it.

    Args:
        overrides: as on the command line.
        config_name: of the primary config.
        sweep: treat several values of a key as alternatives, and try each.
    """
    lines = []
    remaining: list[tuple[str, list[str]]] = []
    for override in overrides:
        try:
            remaining.append((override, _alternatives(override) if sweep else [override]))
        except COMPOSITION_ERRORS as error:
            if not is_composition_error(error):
                raise
            lines.append(f"{_shown(override)}: {one_line(error, written=override)}")
    right: list[tuple[str, list[str]]] = []
    words: list[str] = []
    while remaining:
        sound = _sound_prefix(words, [alternatives[0] for _, alternatives in remaining], config_name)
        right += remaining[:sound]
        words += [alternatives[0] for _, alternatives in remaining[:sound]]
        if sound < len(remaining):
            override, alternatives = remaining[sound]
            refusal = _refusal([*words, alternatives[0]], config_name)
            assert refusal is not None
            lines.append(f"{_shown(override)}: {renamed(override) or one_line(refusal, words, override)}")
        remaining = remaining[sound + 1 :]
    for number, (override, alternatives) in enumerate(right):
        for other in alternatives[1:]:
            if (refusal := _refusal([*words[:number], other, *words[number + 1 :]], config_name)) is not None:
                lines.append(f"{_shown(override)}: {one_line(refusal, words, other)}")
    if lines and words:
        lines += _faults_of_given_keys(words, config_name)
    return lines


def _shown(override: str) -> str:
    """Returns an override for a message; a very long one is cut."""
    return override if len(override) <= _LONGEST_SHOWN else f"{override[:_LONGEST_SHOWN]}..."


def _sound_prefix(words: Sequence[str], more: Sequence[str], config_name: str) -> int:
    """Returns how many of `more`, from the first on, compose after `words`; bisection saves slow compositions."""
    low, high = 0, len(more)
    if _refusal([*words, *more], config_name) is None:
        return high
    while high - low > 1:  # the first `low` compose, the first `high` do not
        middle = (low + high) // 2
        if _refusal([*words, *more[:middle]], config_name) is None:
            low = middle
        else:
            high = middle
    return low


def _refusal(overrides: Sequence[str], config_name: str) -> Exception | None:
    """Returns the error that composing the overrides raises; None if they compose."""
    try:
        composed(config_name, overrides)
    except COMPOSITION_ERRORS as error:
        if not is_composition_error(error):
            raise
        return error
    return None


def _alternatives(override: str) -> list[str]:
    (parsed,) = OverridesParser.create().parse_overrides([override])
    if not parsed.is_sweep_override():
        return [override]
    if not parsed.is_discrete_sweep():
        raise HydraException("a sweep takes a list or a range, for instance seed=1,2 or 'seed=range(1,3)'")
    return [f"{parsed.get_key_element()}={value}" for value in parsed.sweep_string_iterator()]


def _faults_of_given_keys(overrides: Sequence[str], config_name: str) -> list[str]:
    """Returns faults of values that the overrides set. Other faults may be caused by overrides that were left out."""
    given = {key_of(override) for override in overrides}
    try:
        checked(composed(config_name, overrides))
    except UsageError as error:
        return [line for line in error.lines if line.partition("=")[0] in given]
    except (HydraException, OmegaConfBaseException):
        pass
    return []
