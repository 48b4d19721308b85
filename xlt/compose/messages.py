"""Turns errors of Hydra and OmegaConf into one line, with a suggestion of what the user may have meant."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from xlt.compose.composing import composed, import_failures
from xlt.compose.renamed import renamed_key
from xlt.compose.suggestions import suggestion
from xlt.config import QUOTE_IT

_NO_OPTION = "Config group override must be a string"
# Errors inside OmegaConf if an override sets a part of a key that is null, or replaces null by a mapping.
_INSIDE_NULL = "Unexpected type for root: NoneType"
_OVER_NULL = "'NoneType' object has no attribute 'get'\n    full_key:"
_OPTUNA = "hydra/sweeper/optuna"
_INSTEAD = (
    "take an option of its group that has it (start.run: start=run), or write it into a config of your own "
    "(--config-dir)"
)
# Errors of Python if a number has more digits than it converts (4300), or is an integer too large for a float.
_TOO_LARGE = ("for integer string conversion", "int too large to convert to float")
COMPOSITION_ERRORS = (
    HydraException,
    OmegaConfBaseException,
    ValueError,
    OverflowError,
    AssertionError,
    AttributeError,
)


def is_composition_error(error: Exception) -> bool:
    """Returns whether Hydra or OmegaConf raised an error because of the user's overrides, not because of a bug.

    They also raise plain ValueErrors, AssertionErrors and AttributeErrors, which only the message tells from a bug.
    """
    if not isinstance(error, COMPOSITION_ERRORS):
        return False
    if any(part in str(error) for part in _TOO_LARGE):
        return True
    if isinstance(error, OverflowError):
        return False
    if isinstance(error, AssertionError):
        return _INSIDE_NULL in str(error)
    if isinstance(error, AttributeError) and not isinstance(error, OmegaConfBaseException):
        return _OVER_NULL in str(error)
    return not isinstance(error, ValueError) or isinstance(error, OmegaConfBaseException) or _NO_OPTION in str(error)


def one_line(error: BaseException, overrides: Sequence[str] = (), written: str = "") -> str:
    """Describes an error of Hydra or OmegaConf in one line, with a suggestion of what the user may have meant.

    Args:
        error: the error.
        overrides: overrides that compose; the suggestion is a key of the config that they make.
        written: the override that the error is about, as the user wrote it, if it is one.
    """
    text = str(error)
    if (match := re.search(r"In '.*?': Could not (?:find|load) '(.*?)'", text)) is not None:
        if (why := import_failures.get(match.group(1))) is not None:
            return why
        group, _, name = match.group(1).rpartition("/")
        if match.group(1) == _OPTUNA:
            return "the package hydra-optuna-sweeper is not installed; run pip install 'xlt[search]'"
        return f"no {match.group(1)} in conf/{suggestion(name, group_options(group))}"
    if (match := re.search(r"Could not override '(.*?)'", text)) is not None:
        return _no_such_key(match.group(1), overrides)
    if (match := re.search(r"Could not delete from config\. '(.*?)' does not exist", text)) is not None:
        return f"nothing to delete, no such key {match.group(1)}{suggestion(match.group(1), _keys(overrides))}"
    if (match := re.search(r"Could not append to config\. An item is already at '(.*?)'", text)) is not None:
        return f"there is {match.group(1)} already; change it without the +"
    if (match := re.search(r"Multiple values for (\S+?)\.", text)) is not None:
        return f"there is a choice of {match.group(1)} already; change it without the +"
    if "Ambiguous value for argument" in text:
        return "several values; sweep over them with -m, or write a list as KEY=[A,B]"
    if (match := re.search(r"You must specify '(.*?)'", text)) is not None:
        there = ", ".join(group_options(match.group(1)))
        return f"{match.group(1)} is not given; write {match.group(1)}=..., there are {there}"
    if any(part in text for part in _TOO_LARGE):
        return "the number has too many digits; a number of this size fits no setting"
    if _INSIDE_NULL in text:
        return f"it is a part of what is null here; {_INSTEAD}"
    if _OVER_NULL in text:
        return f"it is null here, and Hydra puts no mapping in the place of null; {_INSTEAD}"
    if _NO_OPTION in text:
        return "not the name of an option; leave it out for the default"
    if (match := re.search(r"missing mandatory value: (\S+)", text, re.IGNORECASE)) is not None:
        return f"a value is required for {match.group(1)}, and no file of the configs that were chosen gives it"
    if "is not Optional" in text:
        return "null is not allowed; give a value"
    if "requires --multirun" in text:
        return "several values; sweep over them with -m"
    if "override_grammar" in text or "LexerNoViable" in text:
        return f"not to be read as key=value; {_quoted(written)}"
    if (match := re.search(r"Cannot find primary config '(.*?)'", text)) is not None:
        return f"--config-name={match.group(1)}: no such file in conf/ or --config-dir"
    if (match := re.search(r"Key '(.*?)' not in '(.*?)'.*?full_key: (\S+)", text, re.DOTALL)) is not None:
        now = renamed_key(match.group(3))
        return f"{match.group(3)}: no such key in {match.group(2)}" + (f"; it is {now} now" if now else "")
    if match := re.search(r"Key (?:True|False) \(bool\) is incompatible.*?full_key: (\S+)", text, re.DOTALL):
        return f"{match.group(1)}: the key {QUOTE_IT}"
    if error.__cause__ is not None and text.startswith("Error merging override"):
        return one_line(error.__cause__, overrides)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    kept = [line for line in lines if not line.startswith(("object_type", "reference_type", "full_key", "Set the"))]
    return " ".join(kept) or type(error).__name__


def _quoted(override: str) -> str:
    """Says how the value of an override is quoted that Hydra's grammar does not read."""
    if (match := re.fullmatch(r"([^=]+)=\[([^\[\]'\"]*=[^\[\]'\"]*)\]", override)) is not None:
        entries = ",".join(f"'{entry.strip()}'" for entry in match[2].split(","))
        return f'each entry of the list is quoted: "{match[1]}=[{entries}]"'
    return "a value with special characters is quoted twice: 'KEY=\"VALUE\"'"


def _no_such_key(name: str, overrides: Sequence[str]) -> str:
    if (now := renamed_key(name)) is not None:
        return f"there is no {name} any more; it is {now} now"
    if "@" in name:
        return f"nothing is there yet to be replaced; to add it, write +{name}=..."
    if name in (keys := _keys(overrides)):
        return f"has no such entry yet; to add one, write +{name}.ENTRY=..."
    if (match := re.fullmatch(r"(data\.(?:sources|validation|evaluation))\.([^.]+)\..+", name)) is not None:
        mapping, source = match.groups()
        there = [key for key in keys if key.rpartition(".")[0] == mapping]
        if f"{mapping}.{source}" in there:
            return f"no such key {name}{suggestion(name, keys)}"
        near = suggestion(f"{mapping}.{source}", there)
        return f"no {mapping}.{source}{near}" + ("" if near else f"; add it with +source@{mapping}.{source}=...")
    if name.rpartition(".")[0] == "model.new_languages":
        return f"nothing is there yet to be replaced; to add it, write +{name}=RELATIVE"
    if (match := re.fullmatch(r"compositions\.([^.]+)(\..+)?", name)) is not None and (
        f"compositions.{match[1]}" not in _keys(overrides)
    ):
        return f"no compositions.{match[1]}; add it with +composition@compositions.{match[1]}=..."
    if name.startswith(("language_modules.paths.", "task_modules.paths.", "evaluation.paths.")):
        return f"nothing is there yet to be replaced; to add it, write +{name}=FILE"
    if name.startswith("evaluation.runs."):
        return f"nothing is there yet to be replaced; to add it, write +{name}=['seed=2']"
    if name.startswith("task_modules.runs."):
        return f"nothing is there yet to be replaced; to add it, write +{name}=['data=...']"
    return f"no such key {name}{suggestion(name, keys if '.' in name else [*keys, *_groups()])}"


def _groups() -> list[str]:
    """Returns the config groups from which a command line can choose; their files are not opened."""
    return GlobalHydra.instance().config_loader().list_groups("")


def group_options(group: str) -> list[str]:
    """Returns the names of the files of a config group; to be called inside `hydra_ready`."""
    names = GlobalHydra.instance().config_loader().get_group_options(group)
    return [name for name in names if not name.startswith(("base_", "_"))]


def _keys(overrides: Sequence[str] = ()) -> list[str]:
    """Returns every key, with dots, of the config that the overrides compose."""

    def walk(node: Any, prefix: str) -> Iterator[str]:
        for name, value in node.items():
            yield f"{prefix}{name}"
            if isinstance(value, dict):
                yield from walk(value, f"{prefix}{name}.")

    return list(walk(OmegaConf.to_container(composed("config", overrides), resolve=False), ""))
