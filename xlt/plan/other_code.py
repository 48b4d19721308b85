"""Finds runs and evaluations in the store that differ from planned ones only in the code that made them.

A run's identity contains the fingerprints of the runs that it needs, and these depend on the code. Therefore two runs
are compared by keys: digests of their identities without code, in which each fingerprint is replaced by that run's key.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from xlt.config import SourceConfig
from xlt.data.sources import digest
from xlt.plan import earlier
from xlt.plan.run_index import comparable
from xlt.plan.store import RunStore


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

    The store's index of runs is read once, when it is first needed; manifests only of runs that are used.

    Args:
        store: the store that is searched.
        planned: fingerprint -> run in the plan; runs may be added to it later.

    Attributes:
        used: fingerprint -> run of other code that the plan uses instead of a new run.
    """

    def __init__(self, store: RunStore, planned: Mapping[str, Identified]) -> None:
        self._store, self._planned = store, planned
        self.used: dict[str, StoredRun] = {}
        self._stored: dict[str, dict[str, Any]] | None = None
        self._alike: dict[str, list[dict[str, Any]]] = {}
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
        facts = comparable(identity)
        alike = [run for run in self._runs_alike(self._key(facts)) if run["order"] in (facts["order"], None)]
        for run in sorted(alike, key=lambda run: (run["finished"], run["fingerprint"]), reverse=True):
            if self._store.is_trained(run["fingerprint"]) and (stored := self._stored_run(run)) is not None:
                return stored
        return None

    def _stored_run(self, facts: Mapping[str, Any]) -> StoredRun | None:
        """Reads the identity of a run in the store; None if its manifest is damaged."""
        manifest = self._store.manifest(facts["fingerprint"])
        if not manifest:
            return None
        identity = manifest.get("identity") or {}
        identity = identity if "code" in identity else earlier.converted(manifest)
        if identity is None:
            return None
        return StoredRun(facts["fingerprint"], identity, facts["version"], facts["commit"], facts["finished"])

    def evaluation_like(self, fingerprint: str, identity: Mapping[str, Any], source: SourceConfig | None) -> str | None:
        """Returns the key of a run's latest evaluation that differs from this identity only in code, or None.

        Args:
            fingerprint: of the run.
            identity: of the evaluation with the present code.
            source: the evaluation source; None for a benchmark.
        """
        records, key = self._store.evaluations(fingerprint), self._key(comparable(identity))
        alike = {k: record for k, record in records.items() if self._key(comparable(record.get("identity", {}))) == key}
        if alike:
            return max(alike, key=lambda k: (str(alike[k].get("finished")), k))
        if "composition" in identity:  # earlier versions had no other than the usual ones
            return None
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
        alike = [run["fingerprint"] for run in self._runs_alike(key)] if key is not None else []
        return ["/".join([one, *language]) for one in dict.fromkeys([fingerprint, *alike])]

    def _runs(self) -> dict[str, dict[str, Any]]:
        """Returns fingerprint -> facts about a run, for all finished runs in the store; see `RunStore.finished`."""
        if self._stored is None:
            self._stored = {}
            for facts in self._store.finished().values():
                if not facts["fingerprint"]:
                    continue
                if "shape" not in facts:  # of an earlier version
                    identity = earlier.converted(self._store.manifest(facts["fingerprint"]))
                    if identity is None:
                        continue
                    facts = {**facts, **comparable(identity)}
                if self._store.has_result(facts["fingerprint"]):
                    self._stored[facts["fingerprint"]] = facts
            for facts in self._stored.values():
                self._alike.setdefault(self._key(facts), []).append(facts)
        return self._stored

    def _runs_alike(self, key: str) -> list[dict[str, Any]]:
        self._runs()
        return self._alike.get(key, [])

    def _key_of(self, fingerprint: str) -> str | None:
        """Returns the key of a run, which is equal for runs that differ only in code; None for an unknown run."""
        if fingerprint not in self._keys:
            planned = self._planned.get(fingerprint)
            facts = self._runs().get(fingerprint) if planned is None else comparable(planned.identity)
            if facts is None:
                return None
            self._keys[fingerprint] = self._key(facts)
        return self._keys[fingerprint]

    def _key(self, facts: Mapping[str, Any]) -> str:
        """Returns the key of an identity of which `comparable` gave these facts."""
        return digest([facts["shape"], [self._key_of(mention) or mention for mention in facts["mentions"]]])
