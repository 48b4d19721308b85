from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from xlt.data.typology import Typology, load_typology
from xlt.errors import UsageError


def _save(path: Path, **changes: object) -> str:
    table = {
        "langs": np.array(["fao", "isl", "fin", "azd"]),
        "features": np.array(["S_SVO", "P_TONE", "INV_VOWEL", "S_SOV"]),
        "data": np.array([[1, 0, 1, 0], [1, 0, 1, 1], [0, 1, 0, 1], [0, 0, 0, 1]], dtype=np.uint8),
    }
    np.savez(path, **{name: value for name, value in {**table, **changes}.items() if value is not None})
    return str(path)


def test_vectors_are_the_rows_in_the_order_of_the_features_names(tmp_path: Path) -> None:
    typology = load_typology(_save(tmp_path / "t.npz"))
    assert typology.features == ["INV_VOWEL", "P_TONE", "S_SOV", "S_SVO"]
    assert typology.vectors(["isl", "fao"]).tolist() == [[1, 0, 1, 1], [1, 0, 0, 1]]
    assert typology.languages == ["azd", "fao", "fin", "isl"]
    assert typology.ones() == 2.0


def test_the_nearest_language_has_the_largest_cosine(tmp_path: Path) -> None:
    typology = load_typology(_save(tmp_path / "t.npz"))
    # fao (1 0 0 1): cosine with isl 2 / sqrt(6) = 0.82, with fin and azd 0.
    assert typology.nearest("fao", ["fin", "isl", "azd"]) == "isl"
    assert typology.nearest("fao", ["fin", "azd"]) == "azd"  # a tie
    # azd (0 0 1 0): with fin 1 / sqrt(2), with isl 1 / sqrt(3).
    assert typology.nearest("azd", ["isl", "fin"]) == "fin"


def test_a_language_without_a_vector_names_its_relatives(tmp_path: Path) -> None:
    typology = load_typology(_save(tmp_path / "t.npz"))
    with pytest.raises(UsageError) as raised:
        typology.vectors(["fao", "nah", "deu"])
    assert raised.value.lines == [
        "language=nah: t.npz has no vector of Nahuatl languages; near languages with a vector: "
        "azd (Eastern Durango Nahuatl)",
        "language=deu: t.npz has no vector of German",
    ]


def test_of_a_macrolanguage_its_own_languages_are_named_and_none_of_a_similar_name(tmp_path: Path) -> None:
    """The name of Southern Sami has a word in common with that of Northern Sami, but it is another language."""
    codes = np.array(["swh", "swe", "sma", "zho"])
    typology = load_typology(_save(tmp_path / "t.npz", langs=codes))
    assert typology.fault("swa").endswith(": swh (Swahili)")
    assert typology.fault("yue_Hant").endswith(": zho (Chinese)")
    assert typology.fault("sme").endswith("has no vector of Northern Sami")


def test_what_is_not_known_comes_from_the_languages_that_agree_best() -> None:
    """a lacks y, which only b knows: so does c. Nothing is known of d."""
    codes, features = ["aaa", "bbb", "ccc", "ddd"], ["x", "y", "z"]
    data = np.array([[1, 0, 1], [1, 1, 1], [0, 0, 0], [0, 0, 0]], dtype=np.uint8)
    known = np.array([[1, 0, 1], [1, 1, 1], [1, 0, 1], [0, 0, 0]], dtype=bool)
    typology = Typology(codes, features, data, "t", known)
    assert typology.vectors(["aaa"]).tolist() == [[1, 1, 1]]
    assert typology.vectors(["ccc"]).tolist() == [[0, 1, 0]]
    assert "ddd" not in typology  # nothing is known of it
    assert data[0, 1] == 0  # the table is left as it was


def test_the_package_has_the_thesiss_features() -> None:
    pytest.importorskip("urielplus", reason="urielplus is not installed: pip install 'xlt[typology]'")
    typology = load_typology(None)
    kinds = [feature.partition("_")[0] for feature in typology.features]
    assert (kinds.count("S"), kinds.count("P"), kinds.count("INV")) == (103, 28, 158)
    assert set(typology.vectors(["eng", "fao", "sme"]).unique().tolist()) == {0.0, 1.0}
    assert typology.nearest("fao", ["isl", "zho", "yor"]) == "isl"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data": None}, "has no array data"),
        ({"data": np.full((4, 4), 2, dtype=np.uint8)}, "data must be 0 or 1"),
        ({"data": np.zeros((3, 4), dtype=np.uint8)}, "one row per language"),
    ],
)
def test_another_table_is_refused(changes: dict[str, object], said: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=said):
        load_typology(_save(tmp_path / "t.npz", **changes))


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere.npz: no such file"):
        load_typology(str(tmp_path / "nowhere.npz"))


def test_a_vector_belongs_to_a_code_in_whatever_script(tmp_path: Path) -> None:
    typology = load_typology(_save(tmp_path / "t.npz"))
    assert typology.vectors(["fao_Latn", "fao_Runr"]).tolist() == typology.vectors(["fao", "fao"]).tolist()
    assert "fao_Latn" in typology and "nah_Latn" not in typology
    # fin_Latn, isl_Latn and isl_Runr: the last two are equally near to fao, one of them in its script.
    assert typology.nearest("fao_Runr", ["fin_Latn", "isl_Latn", "isl_Runr"]) == "isl_Runr"
    assert typology.nearest("fao_Latn", ["fin_Latn", "isl_Latn", "isl_Runr"]) == "isl_Latn"
    with pytest.raises(UsageError, match=r"language=deu_Latn: t\.npz has no vector of German"):
        typology.vectors(["deu_Latn"])
