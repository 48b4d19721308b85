"""What a language is: an ISO 639-3 code, if need be with a script; and what is said of everything else."""

from __future__ import annotations

import re
from collections.abc import Callable

import pycountry
import pytest

from xlt.language_codes import MACROLANGUAGES, OTHER_CODES, RETIRED, SPLIT
from xlt.languages import code_without_script, language_fault, language_name, near_languages, script_of


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


def test_varieties_and_macrolanguages_are_near_and_nothing_else_is() -> None:
    assert near_languages("ace", ["ace", "ace_Latn", "acf", "eng", "ace_Arab"]) == ["ace_Arab", "ace_Latn"]
    assert near_languages("ace_Arab", ["ace", "ace_Arab", "eng_Latn"]) == ["ace"]
    assert near_languages("swa", ["swc", "swh_Latn", "swe"]) == ["swc", "swh_Latn"]
    assert near_languages("swh", ["swa_Latn", "swc"]) == ["swa_Latn"]  # the macrolanguage, not its other language


@pytest.mark.parametrize("language", ["ace_Arab", "ace_Latn", "zho_Hans"])
@pytest.mark.parametrize("written", [str.lower, str.upper, lambda language: language.replace("_", "-")])
def test_a_variety_written_otherwise_is_refused_and_its_right_form_is_named(
    language: str, written: Callable[[str], str]
) -> None:
    assert f"did you mean {language}?" in (language_fault(written(language)) or "")


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        # capital letters, and what is left of a code with a script
        *((code, "eng") for code in ("ENG", "Eng", "eNg", "eng_")),
        # retired codes of ISO 639-1 and of ISO 639-3, with a script as well
        *(("iw", "heb"), ("in", "ind"), ("ji", "yid"), ("jw", "jav"), ("mo", "ron"), ("IW", "heb")),
        *(("mol", "ron"), ("ajp", "apc"), ("ajp_Arab", "apc_Arab"), ("scc", "srp"), ("scr", "hrv"), ("drw", "prs")),
        # two letters, and the bibliographic codes of ISO 639-2
        *(("no", "nor"), ("nb", "nob"), ("sh", "hbs"), ("zh", "zho"), ("et", "est"), ("se", "sme"), ("tw", "twi")),
        *(("ger", "deu"), ("fre", "fra"), ("chi", "zho"), ("per", "fas"), ("baq", "eus")),
        # tags with scripts, regions, variants, private parts, or a language within its macrolanguage
        *(("az-Arab", "aze_Arab"), ("zh-Hans", "zho_Hans"), ("zh-CN", "zho_Hans"), ("zh_TW", "zho_Hant")),
        *(("sr_Latn_RS", "srp_Latn"), ("pt-BR", "por"), ("en_XX", "eng"), ("es-419", "spa"), ("ca-valencia", "cat")),
        *(("be-x-old", "bel"), ("zh-yue", "yue"), ("zh-cmn-Hant", "cmn_Hant"), ("apc_Arab_nort3139", "apc_Arab")),
        # Wikipedia's own, M2M-100's and FLORES-101's
        *(("bat-smg", "sgs"), ("fiu-vro", "vro"), ("roa-rup", "rup"), ("zh-min-nan", "nan"), ("zh-classical", "lzh")),
        *(("be-tarask", "bel"), ("cbk-zam", "cbk"), ("ns", "nso"), ("zho_simpl", "zho_Hans"), ("zho_trad", "zho_Hant")),
        # names, of ISO 639-3 and of CLDR
        *(("faroese", "fao"), ("Acehnese", "ace"), ("Northern Sotho", "nso"), ("norwegian bokmal", "nob")),
    ],
)
def test_the_right_code_is_named(written: str, meant: str) -> None:
    fault = language_fault(written)
    assert fault is not None and re.findall(r"\b[a-z]{3}(?:_[A-Z][a-z]{3})?\b", fault.partition(";")[2])
    assert re.search(rf"\b{meant}\b(?!_)", fault.partition(";")[2])


@pytest.mark.parametrize(
    ("written", "all_meant"),
    [
        ("eml", ("egl", "rgn")),
        ("eml-Latn", ("egl_Latn", "rgn_Latn")),
        ("nds-nl", ("act", "drt", "gos", "sdz", "stl", "twd", "vel", "wep")),
        ("swahili", ("swa", "swh")),
        ("odia", ("ori", "ory")),
    ],
)
def test_where_several_languages_may_be_meant_all_are_named(written: str, all_meant: tuple[str, ...]) -> None:
    fault = language_fault(written) or ""
    assert all(code in fault for code in all_meant)


@pytest.mark.parametrize(
    "written",
    [
        *("galic", "aromaniann", "ukranian", "Mandarin", "jp", "cz", "xx", "qqq", "qtd", "xyq", "m", "i", "L", "", "_"),
        *("roa-tara", "my_zaw", "eng_eng", "_Latn", "x-default", "False", "True", "None", "ber", "bih", "sgn"),
    ],
)
def test_where_nothing_is_surely_meant_nothing_is_suggested(written: str) -> None:
    fault = language_fault(written)
    assert fault is not None and "did you mean" not in fault


@pytest.mark.parametrize("script", ["Zyyy", "Zxxx", "Zzzz", "Qaaa", "Xxxx", "Zmth"])
def test_what_is_no_script_is_refused(script: str) -> None:
    fault = language_fault(f"eng_{script}")
    assert fault is not None and script in fault and "ISO 15924" in fault


def test_a_language_is_suggested_for_its_own_name() -> None:
    """Languages of the same name are all suggested; a name that is another language's code is a code."""
    for language in pycountry.languages:
        fault = language_fault(language.name) or ""
        if len(language.name) > 3:
            assert language.alpha_3 in fault, language.name


def test_the_tables_have_only_codes_in_use_on_the_right_and_none_on_the_left() -> None:
    for table in (RETIRED, SPLIT, OTHER_CODES):
        assert all(language_fault(language) is None for languages in table.values() for language in languages)
        assert all(language_fault(code) is not None for code in table)
    assert {one.alpha_3 for one in pycountry.languages if one.scope == "M"} == set(MACROLANGUAGES)
    assert all(language_fault(code) is None for codes in MACROLANGUAGES.values() for code in codes)
