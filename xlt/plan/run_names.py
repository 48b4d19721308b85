"""Names of runs for people: runs that would have one name are told apart by the settings in which they differ."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from xlt.compose import plain, recorded
from xlt.config import RunConfig
from xlt.engine.source_job import SourceJob

# Settings ignored when runs of one name are told apart.
_SILENT = (
    "data.validation.",
    "data.evaluation.",
    "data.excluded.",
    "data.search",
    "data.other_languages",
    "data.leaks",
    "task_modules.",
    "compositions.",
    "evaluation.",
    "tracker.",
    "launcher.",
    "experiment_name",
    "output_dir",
    "data_dir",
    "seed",
)
_SOURCES = "data.sources."
_MOST_WORDS = 3
_NOTHING = "null"


class Named(Protocol):
    """A run, as far as its name depends on it."""

    @property
    def fingerprint(self) -> str: ...

    @property
    def label(self) -> str: ...

    @property
    def config(self) -> RunConfig: ...

    @property
    def job(self) -> SourceJob | None: ...


def names_of(runs: Iterable[Named], given: Mapping[str, str] | None = None) -> dict[str, str]:
    """Returns fingerprint -> name of the run; up to three differing settings are added to equal names.

    Args:
        runs: the runs to be named.
        given: fingerprint -> name to use instead of the run's label.
    """
    by_fingerprint = {run.fingerprint: run for run in runs}
    names = {fingerprint: (given or {}).get(fingerprint, run.label) for fingerprint, run in by_fingerprint.items()}
    return told_apart(names, lambda fingerprint: _settings(by_fingerprint[fingerprint]))


def told_apart(names: Mapping[str, str], settings_of: Callable[[str], dict[str, str]]) -> dict[str, str]:
    """Returns the names with up to three differing settings added to equal ones.

    Args:
        names: fingerprint -> name.
        settings_of: returns dotted key -> value of a run; is called for those of equal names only.
    """
    alike: dict[str, list[str]] = {}
    for fingerprint, name in names.items():
        alike.setdefault(name, []).append(fingerprint)
    told = {}
    for name, namesakes in alike.items():
        settings = [settings_of(fingerprint) for fingerprint in namesakes] if len(namesakes) > 1 else [{}]
        keys = dict.fromkeys(key for one in settings for key in one)
        for key in list(keys):
            values = {one.get(key, _NOTHING) for one in settings}
            if len(values) == 1 or (key.startswith(_SOURCES) and not all(key in one for one in settings)):
                del keys[key]
        for fingerprint, one in zip(namesakes, settings, strict=True):
            words = [f"{key.removeprefix(_SOURCES)}={one.get(key, _NOTHING)}" for key in [*keys][:_MOST_WORDS]]
            told[fingerprint] = " ".join([name, *words])
    return told


def _settings(run: Named) -> dict[str, str]:
    """Returns dotted key -> value, for the settings that can distinguish runs of the same name."""
    if run.job is not None:
        values = _flat(plain(run.job.settings))
    else:
        sources = run.config.data.sources
        values = {"origins": ",".join(sorted({source.origin for source in sources.values()}))}
        for key in ("cap", "cap_words", "upsample", "split", "text_language"):
            values |= {f"{_SOURCES}{name}.{key}": getattr(source, key) for name, source in sources.items()}
        every = _flat(recorded(run.config))
        said = {key for key in every if not key.startswith((*_SILENT, _SOURCES)) and not key.endswith("_target_")}
        values |= {key: value for key, value in every.items() if key in said}
        values["data.sources"] = shortened(",".join(sources))
    return {key: _NOTHING if value in (None, [], {}) else str(value) for key, value in values.items()}


def kept_settings(config: Mapping[str, Any]) -> dict[str, str]:
    """Returns dotted key -> value of a manifest's config, but for sources and what does not tell runs apart."""
    silent = (*_SILENT, _SOURCES, "choices.", "device", "model.path")
    every = _flat(dict(config)).items()
    told = {key: value for key, value in every if not key.startswith(silent) and not key.endswith("_target_")}
    return {key: _NOTHING if value in (None, [], {}) else str(value) for key, value in told.items()}


def shortened(listed: str) -> str:
    return listed if len(listed) <= 24 else f"{listed[:20]}..."


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(values, dict) or not values:
        return {prefix.removesuffix("."): values}
    return {key: value for name, part in values.items() for key, value in _flat(part, f"{prefix}{name}.").items()}
