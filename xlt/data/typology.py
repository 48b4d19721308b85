"""URIEL: typological vectors of 289 binary features (thesis §3.3.1), and which languages are close in them."""

from __future__ import annotations

import importlib.resources
import importlib.util
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from xlt.errors import UsageError
from xlt.languages import language_name

FEATURES = 289
_PACKAGE = "urielplus"
_NEIGHBOURS = 10
_NEAR = 128  # languages looked through together for the neighbours
_SHOWN = 5


class Typology:
    """Languages by their vectors.

    Columns are kept in the order of their features' names, whatever the table's.

    Args:
        codes: ISO 639-3, one a row.
        features: names, one a column: 103 of syntax (S_), 28 of phonology (P_), 158 of sounds (INV_).
        data: (languages, features) uint8, 0 or 1.
        place: for messages.
        known: (languages, features) bool, where `data` is to be believed; None: everywhere. What is not known is
            filled in when a language is asked for: with the majority among the ten languages that know it and agree
            best in what both know. A language of which nothing is known has no vector.
    """

    def __init__(
        self,
        codes: Sequence[str],
        features: Sequence[str],
        data: np.ndarray,
        place: str,
        known: np.ndarray | None = None,
    ) -> None:
        order = sorted(range(len(features)), key=features.__getitem__)
        self.codes, self.features, self.place = list(codes), [features[column] for column in order], place
        data, known = data[:, order], None if known is None else known[:, order]
        self._data, self._known = data, known
        rows = enumerate(self.codes)
        self._rows = {code: row for row, code in rows if known is None or known[row].any()}
        self._signed = None if known is None else np.where(known, np.where(data, 1, -1), 0).astype(np.float32)
        self._filled: dict[int, np.ndarray] = {}

    @property
    def languages(self) -> list[str]:
        """Codes of those that have a vector, in order."""
        return sorted(self._rows)

    def ones(self) -> float:
        """How many features a language has on average."""
        return float(self._data[list(self._rows.values())].sum(1).mean())

    def __contains__(self, code: object) -> bool:
        return code in self._rows

    def vectors(self, codes: Iterable[str]) -> Tensor:
        """(languages, features) float32, 0 or 1.

        Raises:
            UsageError: a language has none; names languages of a similar name that have one.
        """
        codes = list(codes)
        faults = [self.fault(code) for code in codes if code not in self]
        if faults:
            raise UsageError(*faults)
        return torch.from_numpy(np.stack([self._row(self._rows[code]) for code in codes])).float()

    def fault(self, code: str) -> str:
        """Why a language cannot be used, and whose vector might stand in."""
        words = {word for word in language_name(code).lower().split() if len(word) > 3 and word != "languages"}
        named = ((other, _name(other)) for other in self._rows)
        near = [f"{other} ({name})" for other, name in named if words & set(name.lower().split())][:_SHOWN]
        relatives = f"; languages of that name that have one: {', '.join(near)}" if near else ""
        return f"language={code}: {self.place} has no vector of {language_name(code)}{relatives}"

    def nearest(self, code: str, among: Iterable[str]) -> str:
        """The language of largest cosine similarity (thesis §3.4.2, footnote 10); ties go to the earlier code.

        Raises:
            UsageError: `code` or one of `among` has no vector.
        """
        among = sorted(among)
        others, own = self.vectors(among), self.vectors([code])[0]
        cosine = (others @ own) / (others.norm(dim=1) * own.norm()).clamp(min=1e-12)
        return among[int(cosine.argmax())]

    def _row(self, row: int) -> np.ndarray:
        """(features,) uint8, all of them known."""
        if self._known is None or self._signed is None:
            return self._data[row]
        if row not in self._filled:
            filled, unknown = self._data[row].copy(), np.flatnonzero(~self._known[row])
            agreement = self._signed @ self._signed[row]
            agreement[row] = -np.inf
            order = np.argsort(-agreement, kind="stable")
            near = order[:_NEAR]
            heard = self._known[np.ix_(near, unknown)].cumsum(0)
            votes = (self._signed[np.ix_(near, unknown)] * (heard <= _NEIGHBOURS)).sum(0)
            filled[unknown] = votes > 0
            for column in unknown[heard[-1] < _NEIGHBOURS]:  # too few of the near ones know it
                best = order[self._known[order, column]][:_NEIGHBOURS]
                filled[column] = self._signed[best, column].sum() > 0
            self._filled[row] = filled
        return self._filled[row]


@cache
def load_typology(path: str | None) -> Typology:
    """Reads URIEL.

    Args:
        path: an .npz as lang2vec's kNN-imputed vectors, with `langs`, `features` and `data`; None: the original
            features that come with the `urielplus` package, of which only that file is read. There a feature is the
            majority of its sources, and what no source knows is filled in, see `Typology`.
    Raises:
        UsageError: neither is there, or the file is no such table.
    """
    if path is not None:
        file = Path(path).expanduser()
        if not file.is_file():
            raise UsageError(f"typology={path}: no such file; an .npz of URIEL's vectors with langs, features and data")
        with np.load(file, allow_pickle=False) as table:
            missing = [name for name in ("langs", "features", "data") if name not in table]
            if missing:
                raise UsageError(f"typology={path}: has no array {missing[0]}; expected langs, features and data")
            codes, features, data = (table[name] for name in ("langs", "features", "data"))
        if data.shape != (len(codes), len(features)) or not np.isin(data, (0, 1)).all():
            raise UsageError(f"typology={path}: data must be 0 or 1, one row a language and one column a feature")
        return Typology(codes.tolist(), features.tolist(), data.astype(np.uint8), Path(path).name)
    if importlib.util.find_spec(_PACKAGE) is None:
        raise UsageError("typology=null: URIEL's vectors need a file or a package; pip install 'xlt[typology]'")
    folder = importlib.resources.files(_PACKAGE) / "database" / "original_uriel"
    with (folder / "features.npz").open("rb") as stream, np.load(stream, allow_pickle=False) as table:
        codes, features, by_source = table["langs"], table["feats"], table["data"]
    known = by_source >= 0
    mean = np.where(known, by_source, 0).sum(2) / np.maximum(known.sum(2), 1)
    data = ((mean >= 0.5) & known.any(2)).astype(np.uint8)
    return Typology(codes.tolist(), features.tolist(), data, _PACKAGE, known.any(2))


def _name(code: str) -> str:
    try:
        return language_name(code)
    except ValueError:
        return ""
