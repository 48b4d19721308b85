"""Finds runs and evaluations in the store that differ from planned ones only in the code that made them.

A run's identity contains the fingerprints of the runs that it needs, and these depend on the code. Therefore two runs
are compared by keys: digests of their identities without code, in which each fingerprint is replaced by that run's key.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from xlt.config import SourceConfig
from xlt.data.sources import digest
from xlt.plan import earlier
from xlt.plan.store import RunStore

_FINGERPRINT_DIGITS = 32


class Identified(Protocol):
    """A planned run; only its identity is needed here."""

    identity: dict[str, Any]


@dataclass(frozen=True)
class StoredRun:
    """A finished run in the store.

    Attributes:
        fingerprint, identity: of the run; identities of earlier versions are converted to the present format.
        version, commit: of the xlt that made the run; the commit may be unknown.
        finished: time at which it ended, in ISO 8601, UTC.
    """

    fingerprint: str
    identity: dict[str, Any]
    version: str
    commit: str | None
    finished: str

    def __str__(self) -> str:
        changed = "+changes" if self.commit and self.commit.endswith("+changes") else ""
        commit = f", commit {self.commit[:7]}{changed}" if self.commit else ""
        return f"xlt {self.version}{commit} of {self.finished[:10]}"


class OtherCode:
    """A search for runs and evaluations that other code made from the same settings, data and modules.

    The manifests in the store are read once, when they are first needed.

    Args:
        store: the store that is searched.
        planned: fingerprint -> run in the plan; runs may be added to it later.

    Attributes:
        used: fingerprint -> run of other code that the plan uses instead of a new run.
    """

    def __init__(self, store: RunStore, planned: Mapping[str, Identified]) -> None:
        self._store, self._planned = store, planned
        self.used: dict[str, StoredRun] = {}
        self._stored: dict[str, StoredRun] | None = None
        self._alike: dict[str, list[StoredRun]] = {}
        self._keys: dict[str, str] = {}

    def chosen(self, identity: dict[str, Any], other_code: str) -> tuple[str, dict[str, Any]]:
        """Returns the fingerprint and the identity of the run to use.

        Args:
            identity: of the run with the present code.
            other_code: "use" chooses a run of other code if the present code has made none; "train" never does.
        """
        fingerprint = digest(identity)
        if other_code == "use" and not self._store.is_trained(fingerprint):
            alike = self.run_like(identity)
            if alike is not None:
                self.used[alike.fingerprint] = alike
                return alike.fingerprint, alike.identity
        return fingerprint, identity

    def run_like(self, identity: Mapping[str, Any]) -> StoredRun | None:
        """Returns the latest finished run that differs from this identity only in code; None if there is none."""
        order = _order(identity)
        alike = (run for run in self._runs_alike(self._key(identity)) if _order(run.identity) in (order, None))
        candidates = [run for run in alike if self._store.is_trained(run.fingerprint)]
        return max(candidates, key=lambda run: (run.finished, run.fingerprint), default=None)

    def evaluation_like(self, fingerprint: str, identity: Mapping[str, Any], source: SourceConfig | None) -> str | None:
        """Returns the key of a run's latest evaluation that differs from this identity only in code, or None.

        Args:
            fingerprint: of the run.
            identity: of the evaluation with the present code.
            source: the evaluation source; None for a benchmark.
        """
        records, key = self._store.evaluations(fingerprint), self._key(identity)
        alike = {k: record for k, record in records.items() if self._key(record.get("identity", {})) == key}
        if alike:
            return max(alike, key=lambda k: (str(alike[k].get("finished")), k))
        modules: Mapping[str, str] = identity["modules"]
        for others in itertools.product(*(self._fingerprints_alike(module) for module in modules.values())):
            earlier_key = earlier.evaluation_key(identity, source, dict(zip(modules, others, strict=True)))
            if earlier_key in records:
                return earlier_key
        return None

    def _fingerprints_alike(self, module: str) -> list[str]:
        """Returns the identities of all modules that differ from this one only in code; this one is the first."""
        fingerprint, *language = module.split("/")
        key = self._key_of(fingerprint)
        alike = [run.fingerprint for run in self._runs_alike(key)] if key is not None else []
        return ["/".join([one, *language]) for one in dict.fromkeys([fingerprint, *alike])]

    def _runs(self) -> dict[str, StoredRun]:
        if self._stored is None:
            self._stored = {}
            for manifest in self._store.manifests():
                identity = manifest.get("identity") or {}
                identity = identity if "code" in identity else earlier.converted(manifest)
                if identity is not None and self._store.has_result(manifest["fingerprint"]):
                    version = str(manifest.get("versions", {}).get("xlt", "of unknown version"))
                    about = (version, manifest.get("commit"), str(manifest.get("finished", "")))
                    self._stored[manifest["fingerprint"]] = StoredRun(manifest["fingerprint"], identity, *about)
            for run in self._stored.values():
                self._alike.setdefault(self._key(run.identity), []).append(run)
        return self._stored

    def _runs_alike(self, key: str) -> list[StoredRun]:
        self._runs()
        return self._alike.get(key, [])

    def _key_of(self, fingerprint: str) -> str | None:
        """Returns the key of a run, which is equal for runs that differ only in code; None for an unknown run."""
        if fingerprint not in self._keys:
            run = self._planned.get(fingerprint) or self._runs().get(fingerprint)
            if run is None:
                return None
            self._keys[fingerprint] = self._key(run.identity)
        return self._keys[fingerprint]

    def _key(self, identity: Mapping[str, Any]) -> str:
        own = {name: value for name, value in identity.items() if name != "code"}
        if "data" in own:  # identities of earlier versions have no order of the sources
            own["data"] = {name: value for name, value in own["data"].items() if name != "order"}
        return digest(_with_keys(own, self._key_of))


def _order(identity: Mapping[str, Any]) -> Any:
    """Returns the order of a run's sources; None if its identity does not contain it."""
    return identity.get("data", {}).get("order")


def _with_keys(value: Any, key_of: Callable[[str], str | None]) -> Any:
    """Replaces each fingerprint of a run in a JSON value by the run's key, also in "FINGERPRINT/LANGUAGE"."""
    if isinstance(value, Mapping):
        return {name: _with_keys(part, key_of) for name, part in value.items()}
    if isinstance(value, list):
        return [_with_keys(part, key_of) for part in value]
    if isinstance(value, str) and len(value) >= _FINGERPRINT_DIGITS:
        fingerprint, *rest = value.split("/")
        if len(fingerprint) == _FINGERPRINT_DIGITS and (key := key_of(fingerprint)) is not None:
            return "/".join([key, *rest])
    return value
