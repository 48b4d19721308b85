"""URIEL's typological vectors of 289 binary features (thesis §3.3.1), and the similarity of languages by them."""

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
from xlt.languages import code_without_script, language_name, near_languages, script_of

FEATURES = 289
_PACKAGE = "urielplus"
_NEIGHBOURS = 10
_BLOCK_LANGUAGES = 128  # number of languages among which neighbours are first searched, all at a time
_MAX_SUGGESTIONS = 5


class Typology:
    """A table of typological vectors of languages.

    A vector belongs to an ISO 639-3 code: the varieties of a language in several scripts (`ace_Arab`, `ace_Latn`) have
    the same one.

    Its columns are sorted by the names of their features, whatever their order in the input.

    Args:
        codes: ISO 639-3 codes of the rows.
        features: names of the columns: 103 of syntax (S_), 28 of phonology (P_), 158 of sounds (INV_).
        data: (languages, features) uint8, 0 or 1.
        place: name of the table, for messages.
        known: (languages, features) bool, True where the value in `data` is known; None if all are. When a language's
            vector is used, each unknown value is filled in by a majority of ten languages. These ten have a known value
            there, and agree best with this language in the features that both know. A language without any known value
            has no vector.
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
        self._complete_rows: dict[int, np.ndarray] = {}

    @property
    def languages(self) -> list[str]:
        """Codes of the languages with a vector, sorted."""
        return sorted(self._rows)

    def ones(self) -> float:
        """Returns the mean number of features that are 1 in a vector."""
        return float(self._data[list(self._rows.values())].sum(1).mean())

    def __contains__(self, language: object) -> bool:
        return isinstance(language, str) and code_without_script(language) in self._rows

    def vectors(self, codes: Iterable[str]) -> Tensor:
        """Returns the vectors of languages, (languages, features) float32, 0 or 1.

        Raises:
            UsageError: a language has no vector; the message suggests near languages that have one.
        """
        codes = list(codes)
        faults = [self.fault(code) for code in codes if code not in self]
        if faults:
            raise UsageError(*faults)
        return torch.from_numpy(np.stack([self._row(self._rows[code_without_script(code)]) for code in codes])).float()

    def fault(self, code: str) -> str:
        """Returns a line that says that a language has no vector and suggests near ones that have one.

        Near is a macrolanguage to its languages and the other way round. A collective code (`nah`) is not a
        macrolanguage: its languages are found by its name.
        """
        near = near_languages(code, self._rows)
        if not near and language_name(code_without_script(code)).endswith(" languages"):
            (word, *_) = language_name(code).split()
            near = sorted(other for other in self._rows if word in _name(other).split())
        names = ", ".join(f"{other} ({_name(other)})" for other in near[:_MAX_SUGGESTIONS])
        relatives = f"; near languages with a vector: {names}" if near else ""
        return f"language={code}: {self.place} has no vector of {language_name(code)}{relatives}"

    def nearest(self, code: str, among: Iterable[str]) -> str:
        """Returns the language with the largest cosine similarity (thesis §3.4.2, footnote 10).

        Of equal ones it is one in the same script if there is one, and then that with the earlier code.

        Args:
            code: ISO 639-3 code of the language, if need be with a script.
            among: codes of the candidates.
        Raises:
            UsageError: `code` or a candidate has no vector.
        """
        among = sorted(among, key=lambda other: (script_of(other) != script_of(code), other))
        others, own = self.vectors(among), self.vectors([code])[0]
        cosine = (others @ own) / (others.norm(dim=1) * own.norm()).clamp(min=1e-12)
        return among[int(cosine.argmax())]

    def similarity(self, one: str, other: str) -> float:
        """Returns the cosine similarity of two languages' vectors, in [0, 1].

        Raises:
            UsageError: one of them has no vector.
        """
        first, second = self.vectors([one, other])
        return float((first @ second) / (first.norm() * second.norm()).clamp(min=1e-12))

    def _row(self, row: int) -> np.ndarray:
        """Returns a vector, (features,) uint8, whose unknown values are filled in."""
        if self._known is None or self._signed is None:
            return self._data[row]
        if row not in self._complete_rows:
            complete, unknown = self._data[row].copy(), np.flatnonzero(~self._known[row])
            agreement = self._signed @ self._signed[row]
            agreement[row] = -np.inf
            order = np.argsort(-agreement, kind="stable")
            near = order[:_BLOCK_LANGUAGES]
            known_counts = self._known[np.ix_(near, unknown)].cumsum(0)
            votes = (self._signed[np.ix_(near, unknown)] * (known_counts <= _NEIGHBOURS)).sum(0)
            complete[unknown] = votes > 0
            for column in unknown[known_counts[-1] < _NEIGHBOURS]:  # known for too few of these languages
                best = order[self._known[order, column]][:_NEIGHBOURS]
                complete[column] = self._signed[best, column].sum() > 0
            self._complete_rows[row] = complete
        return self._complete_rows[row]


def by_nearness(typology: Typology, code: str, among: Iterable[str]) -> list[str]:
    """Returns languages by cosine similarity to another one; the first is `Typology.nearest`.

    Args:
        typology: has the vectors.
        code: ISO 639-3 code of the language, if need be with a script.
        among: codes of the others.
    Raises:
        UsageError: a language has no vector.
    """
    left, ordered = list(among), []
    while left:
        ordered.append(typology.nearest(code, left))
        left.remove(ordered[-1])
    return ordered


@cache
def load_typology(path: str | None) -> Typology:
    """Reads URIEL's vectors.

    Args:
        path: an .npz file with `langs`, `features` and `data`, such as lang2vec's kNN-imputed vectors. None means the
            original features in a file of the `urielplus` package. There the value of a feature is the majority of its
            sources, and values without source are filled in, see `Typology`.
    Raises:
        UsageError: there is no file or no package, or the file is no such table.
    """
    if path is not None:
        file = Path(path).expanduser()
        if not file.is_file():
            raise UsageError(
                f"typology={path}: no such file; expected an .npz file of URIEL's vectors with langs, features and data"
            )
        with np.load(file, allow_pickle=False) as table:
            missing = [name for name in ("langs", "features", "data") if name not in table]
            if missing:
                raise UsageError(f"typology={path}: has no array {missing[0]}; expected langs, features and data")
            codes, features, data = (table[name] for name in ("langs", "features", "data"))
        if data.shape != (len(codes), len(features)) or not np.isin(data, (0, 1)).all():
            raise UsageError(
                f"typology={path}: data must be 0 or 1, with one row per language and one column per feature"
            )
        return Typology(codes.tolist(), features.tolist(), data.astype(np.uint8), Path(path).name)
    if importlib.util.find_spec(_PACKAGE) is None:
        raise UsageError(
            "typology=null: the package urielplus is not installed; run pip install 'xlt[typology]', or set a file"
        )
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
