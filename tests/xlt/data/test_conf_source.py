"""Every data set of conf/source: its local files and its place on the hub, as configs, without reading either."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import xlt_conf
from omegaconf import OmegaConf, SCMode

from xlt.compose import compose, hydra_ready
from xlt.config import SourceConfig, faults
from xlt.data.readers import hub
from xlt.data.records import fields_of
from xlt.data.sources import reader_of, source_identity
from xlt.languages import language_fault

# Of no data set, or in no place before a run makes it.
MADE = ("_gold", "locale_expressions", "locale_pairs")
NAMES = sorted(
    file.stem
    for file in (Path(str(xlt_conf.__file__)).parent / "source").glob("*.yaml")
    if file.stem not in MADE and not file.stem.startswith("translated") and not file.stem.endswith("ttest")
)
LOCAL_ONLY = {
    *("americasnlp2021", "americasnlp2021_into_spa", "taxi1500"),
    *("xtreme_up_qa_in_lang", "xtreme_up_qa_cross_lang", "xtreme_up_translation"),
}
OTHER_ROLES = {"xtreme_up_ner": {"words", "ner"}}  # on the hub
HUB_ONLY = {"conll2003", "fineweb2", "glotcc", "mlqa", "multinli", "wikipedia", "xnli", "xnli_test"}
TEST_ONLY = {"belebele"}


@pytest.fixture(scope="module", autouse=True)
def _hydra() -> Iterator[None]:
    with hydra_ready():
        yield


def composed(name: str, data_dir: str | None, language: str | None = None) -> SourceConfig:
    """The source, in Hausa where its file leaves the language open, or in another language."""
    words = [f"+source@data.sources.x={name}", "language=hau", f"data_dir={data_dir or 'null'}"]
    config = compose(words)
    if OmegaConf.is_missing(config.data.sources.x, "language"):
        config.data.sources.x.language = "hau"
    if language is not None:
        config.data.sources.x.language = language
    source = OmegaConf.to_container(config.data.sources.x, resolve=True, structured_config_mode=SCMode.INSTANTIATE)
    assert isinstance(source, SourceConfig)
    return source


@pytest.mark.parametrize("name", NAMES)
def test_a_source_has_every_key_and_a_licence_and_codes_of_real_languages(name: str) -> None:
    source = composed(name, "folder")
    assert list(faults(source, name)) == []
    assert source.licence
    codes = [*source.codes, *(source.hub.codes if source.hub is not None else ())]
    assert [code for code in codes if language_fault(code) is not None] == []


@pytest.mark.parametrize("name", ["locale_expressions", "locale_pairs"])
def test_the_embedded_corpus_names_its_licence(name: str) -> None:
    config = compose([f"+source@data.sources.x={name}", "language=hau", "data.sources.x.language=hau"])
    assert config.data.sources.x.licence == "Unicode-3.0"


@pytest.mark.parametrize("name", [name for name in NAMES if name not in HUB_ONLY])
def test_with_a_data_folder_a_source_is_read_from_it(name: str, tmp_path: Path) -> None:
    source = composed(name, str(tmp_path))
    assert reader_of(source).__name__.rpartition(".")[2] == source.reader != "hub"
    assert source.location().is_relative_to(tmp_path)
    assert "{code}" not in str(source.location())


@pytest.mark.parametrize("name", [name for name in NAMES if name not in LOCAL_ONLY])
def test_without_a_data_folder_a_source_is_read_from_the_hub_in_the_same_roles(name: str) -> None:
    source = composed(name, None)
    assert reader_of(source) is hub and hub.files(source) == []
    assert source.hub is not None and source.hub.revision
    assert "{code}" not in str(source_identity(source))
    if source.fields:
        assert set(source.hub.fields) | {"id"} == OTHER_ROLES.get(name, set(fields_of(source))) | {"id"}
    assert set(source.hub.splits) & {"train", "text", "dev"} or name in TEST_ONLY


def test_no_edition_of_wikipedia_is_read_as_another_language() -> None:
    """Of the editions' own codes, those that ISO 639-3 has for other languages."""
    source = composed("wikipedia", None)
    assert source.hub is not None
    editions = {"als": "gsw", "nrm": "nrf"}
    assert {code: source.hub.codes.get(code) for code in ("als", "nrm")} == {"als": "sq", "nrm": "no_edition"}
    assert {edition: source.hub.codes.get(code) for edition, code in editions.items()} == {"als": "als", "nrm": "nrm"}


def test_the_eleven_treebanks_of_multi_source_parsing_are_there() -> None:
    source = composed("ud_fao", None)
    sources = {"ces", "ell", "eng", "est", "eus", "fas", "fra", "hin", "kor", "tur", "vie"}
    assert source.hub is not None
    assert sources <= set(source.codes) == set(source.hub.codes)
    assert (source.code, source.hub.codes["fao"]) == ("Faroese-FarPaHC", "fo_farpahc")


@pytest.mark.parametrize(
    ("name", "language", "local", "subset"),
    [
        ("sib200", "mlt", "mlt_Latn", "mlt_Latn"),
        ("sib200", "ace_Arab", "ace_Arab", "ace_Arab"),
        ("sib200_ajp", "apc", "ajp_Arab", "ajp_Arab"),
        ("belebele", "ben_Latn", "ben_Latn.jsonl", "ben_Latn"),
        ("belebele", "yor", "yor_Latn.jsonl", "yor_Latn"),
        ("xp3x", "zul", "zul_Latn", "zul_Latn"),
        ("glotcc", "mlt", None, "mlt-Latn"),
        ("fineweb2", "zho", None, "cmn_Hani"),
        ("fineweb2", "tzm_Tfng", None, "tzm_Tfng"),
        ("flores_plus", "zho_Hans", "cmn_Hans.txt", "cmn_Hans"),
        ("universal_ner", "eng", "universal_ner", "en_ewt"),
        ("ud_newest", "fao", "UD_Faroese-FarPaHC", "fo_farpahc"),
        ("masakhapos", "bam", "bam", "bam"),
    ],
)
def test_todays_data_sets_have_codes_of_their_own_for_languages(
    name: str, language: str, local: str | None, subset: str, tmp_path: Path
) -> None:
    place = composed(name, str(tmp_path), language)
    assert local is None or place.location().name == local
    source = composed(name, None, language)
    assert hub._subset(source) == subset


def test_the_varieties_of_a_data_set_are_as_many_as_it_has() -> None:
    for name, count in (("sib200", 204), ("belebele", 122)):  # SIB-200's 205th has a file of its own
        source = composed(name, None)
        assert source.hub is not None
        assert len(set(source.hub.codes.values())) == len(source.hub.codes) == count


def test_rows_of_aya_are_chosen_by_their_language() -> None:
    assert composed("aya", None, "zul").where == {"language_code": "zul"}


def test_sources_of_one_data_set_share_its_place_and_differ_in_language() -> None:
    faroese, manx = composed("ud_fao", "folder"), composed("ud_glv", "folder")
    assert (faroese.path, faroese.hub) == (manx.path, manx.hub)
    assert [str(source.location()) for source in (faroese, manx)] == [
        "folder/ud/UD_Faroese-FarPaHC",
        "folder/ud/UD_Manx-Cadhan",
    ]
