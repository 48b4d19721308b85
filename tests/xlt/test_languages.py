"""What a language is: an ISO 639-3 code, if need be with a script."""

from __future__ import annotations

import pytest

from xlt.languages import code_without_script, language_fault, language_name, same_code, script_of


@pytest.mark.parametrize(
    ("language", "code", "script", "name"),
    [
        ("ace", "ace", None, "Achinese"),
        ("ace_Arab", "ace", "Arab", "Achinese (Arabic script)"),
        ("ace_Latn", "ace", "Latn", "Achinese (Latin script)"),
        ("zho_Hans", "zho", "Hans", "Chinese (Simplified Han script)"),
        ("zho_Hant", "zho", "Hant", "Chinese (Traditional Han script)"),
        ("taq_Tfng", "taq", "Tfng", "Tamasheq (Tifinagh script)"),
        ("nah_Latn", "nah", "Latn", "Nahuatl languages (Latin script)"),
    ],
)
def test_a_language_is_a_code_and_where_it_matters_a_script(
    language: str, code: str, script: str | None, name: str
) -> None:
    assert language_fault(language) is None
    assert (code_without_script(language), script_of(language)) == (code, script)
    assert language_name(language) == name


def test_varieties_of_one_language_are_found_by_their_code() -> None:
    assert same_code("ace", ["ace", "ace_Latn", "eng", "ace_Arab"]) == ["ace_Arab", "ace_Latn"]
    assert same_code("ace_Arab", ["ace", "ace_Arab", "eng_Latn"]) == ["ace"]


@pytest.mark.parametrize("language", ["ace_Arab", "ace_Latn", "zho_Hans"])
@pytest.mark.parametrize("written", [str.lower, str.upper, lambda language: language.replace("_", "-")])
def test_a_variety_written_otherwise_is_refused_and_its_right_form_is_named(language: str, written: object) -> None:
    assert callable(written)
    fault = language_fault(written(language))
    assert fault is not None and f"did you mean {language}?" in fault


@pytest.mark.parametrize("language", ["ENG", "Eng", "eNg", "eng_"])
def test_a_code_is_written_in_small_letters(language: str) -> None:
    assert "did you mean eng?" in (language_fault(language) or "")


@pytest.mark.parametrize("script", ["Zyyy", "Zxxx", "Zzzz", "Qaaa", "Xxxx", "Zmth"])
def test_what_is_no_script_is_refused(script: str) -> None:
    fault = language_fault(f"eng_{script}")
    assert fault is not None and script in fault and "ISO 15924" in fault
