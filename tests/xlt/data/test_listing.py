"""Which languages a data set has, by what is in its folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from xlt.compose import compose
from xlt.data.listing import languages_in
from xlt.errors import UsageError


def folder_with(tmp_path: Path, *names: str) -> Path:
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def test_languages_are_the_names_in_the_place_of_the_code(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, "bam/test.txt", "ace_Arab/test.txt", "README.md", "LICENCE", "yor")
    assert languages_in(f"{folder}/{{code}}", {}) == ["ace_Arab", "bam", "yor"]
    folder = folder_with(tmp_path / "mono", "fo.txt", "bam.txt", "README.md")
    assert languages_in(f"{folder}/{{code}}.txt", {"fao": "fo"}) == ["bam", "fao"]
    folder = folder_with(tmp_path / "deep", "eng/train/x.tsv", "deu/dev/x.tsv")
    assert languages_in(f"{folder}/{{code}}/train", {}) == ["eng"]


def test_a_code_of_the_data_set_is_translated_and_its_language_is_listed_once(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, "eng_Latn/x", "zho_Hans/x", "zho_Hant/x")
    codes = {"eng": "eng_Latn", "zho_Hans": "zho_Hans", "fra": "fra_Latn"}
    assert languages_in(f"{folder}/{{code}}", codes) == ["eng", "zho_Hans", "zho_Hant"]


def test_what_looks_like_a_language_and_is_none_is_refused_unless_another_entry_reads_it(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, "ajp_Arab/x", "eng_Latn/x")
    with pytest.raises(UsageError, match=r"ajp_Arab: ajp_Arab is .*codes"):
        languages_in(f"{folder}/{{code}}", {"eng": "eng_Latn"})
    assert languages_in(f"{folder}/{{code}}", {"eng": "eng_Latn"}, [folder / "ajp_Arab"]) == ["eng"]


@pytest.mark.parametrize("path", ["{folder}/nowhere/{code}", "{folder}/file.txt", "{folder}/{code}.tsv"])
def test_a_place_without_languages_is_refused_in_a_line(path: str, tmp_path: Path) -> None:
    folder = folder_with(tmp_path, "eng.txt")
    with pytest.raises(UsageError) as raised:
        languages_in(path.replace("{folder}", str(folder)), {})
    (line,) = raised.value.lines
    assert line.startswith("languages=[*]")


def test_a_star_in_a_config_is_every_language_there_is(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, *(f"sib200/{code}/test.tsv" for code in ("eng_Latn", "ace_Arab", "ajp_Arab")))
    evaluation = compose(["experiment=topic", "data=sib200", f"data_dir={folder}"]).data.evaluation
    assert {name: source.language for name, source in evaluation.items()} == {
        "ace_Arab": "ace_Arab",
        "eng": "eng",
        "ajp": "apc",
    }
    assert [source.codes.get(source.language) for source in evaluation.values()] == ["ace_Arab", "eng_Latn", "ajp_Arab"]
    assert len(compose(["experiment=topic", "data=sib200"]).data.evaluation) == 205  # on the hub: those of the file
    with pytest.raises(UsageError, match=r"data\.evaluation\.sib200\.languages=\[\*\]: .*no such folder"):
        compose(["experiment=topic", "data=sib200", f"data_dir={folder / 'absent'}"])
    with pytest.raises(UsageError, match=r"data\.evaluation\.x\.languages=\[\*\]: .*hub\.codes"):
        compose(["experiment=topic", "+source@data.evaluation.x=afrisenti", "data.evaluation.x.languages=['*']"])
