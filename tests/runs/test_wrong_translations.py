"""Translations and translators that cannot be: exit code 2, a line for each fault, before anything is trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.runs.conftest import Ended
from tests.runs.translation_words import RECIPE, sentiment, translate_train
from tests.translators import translator, write_shelf
from xlt.models.loading import save_checkpoint

OF_T = "data.sources.t.translation"
# What is wrong -> words, and what each line has to say.
WRONG: dict[str, tuple[list[str], list[str]]] = {
    "a gold source that is translated, from its own language": (
        [f"data.sources.ind.translation=${{{OF_T}}}"],
        [
            "data.sources.ind.origin=gold: what a model translated is of origin translated",
            "data.sources.ind.translation.source_language=ind: the source's own; leave translation out",
        ],
    ),
    "number of beams": ([f"{OF_T}.beams=0"], [f"{OF_T}.beams=0: must be at least 1"]),
    "fields that are no text, and languages that are none": (
        [f"{OF_T}.fields=[label]", f"{OF_T}.adapt=[madurese]"],
        [
            f"{OF_T}.adapt: madurese is not an ISO 639-3 code",
            f"{OF_T}.fields=['label']: must be of text, pair; other parts point into a text, or name labels",
        ],
    ),
    "a text that is not there": (
        [f"{OF_T}.fields=[text,pair]"],
        ["train.tsv:1: no pair to translate; give translation.fields"],
    ),
    "a translator's run that does not exist": (
        [f"{OF_T}.run={{experiment: translaton, overrides: []}}"],
        [f"{OF_T}.run: experiment=translaton: no experiment/translaton in conf/; did you mean translation"],
    ),
    "a run that does not translate": (
        [f"{OF_T}.run={{experiment: language, overrides: ['language={{target}}','model.path={{bert}}']}}"],
        [f"{OF_T}.run: task mlm does not translate; take task=translation"],
    ),
    "a translator of random weights that learns nothing": (
        [f"{OF_T}.adapt=[]", f"{OF_T}.run={{experiment: translation_pretrain, overrides: []}}"],
        [f"{OF_T}.adapt: translation_pretrain begins with random weights; name the language"],
    ),
    "an encoder for a translator": (
        [
            f"{OF_T}.adapt=[]",
            f"{OF_T}.run={{experiment: translation, overrides: "
            "['target={target}','model.path={bert}','model.run=null']}",
        ],
        ["tiny-bert) is no encoder-decoder; take NLLB or another M2M-100"],
    ),
}
ALONE: dict[str, tuple[list[str], list[str]]] = {
    "languages that nobody speaks": (
        ["+model.new_languages.qqq=null", "+model.new_languages.mad=javanese"],
        [
            "model.new_languages.mad=javanese: javanese is not an ISO 639-3 code; did you mean jav?",
            "model.new_languages.qqq=None: qqq is not an ISO 639-3 code",
        ],
    ),
    "a relative without a token": (
        ["+model.new_languages.mad=sun"],
        ["model.new_languages.mad=sun: "],
    ),
    "a language without a token": (
        [],
        ["language mad: "],
    ),
    "a source that is no parallel text": (
        ["data.sources.pairs.text_language=null", "+model.new_languages.mad=jav"],
        ["train.csv:2: there is no parallel text"],
    ),
    "new languages without a plus, and a part of what is null": (
        ["model.new_languages.mad=jav", "model.new_languages={mad: jav}", "data.sources.pairs.translation.beams=2"],
        [
            "data.sources.pairs.translation.beams=2: it is a part of what is null here; take an option",
            "model.new_languages.mad=jav: nothing is there yet to be replaced; to add it, write +model.new",
            "model.new_languages={mad: jav}: has no such entry yet; to add one, write +model.new_languages.ENTRY=...",
        ],
    ),
    "a mapping for what is null": (
        ["data.sources.pairs.translation={beams: 2}"],
        ["data.sources.pairs.translation={beams: 2}: it is null here, and Hydra puts no mapping in the place of null"],
    ),
    "an encoder": (
        ["model.path={bert}"],
        ["tiny-bert) is no encoder-decoder; take NLLB or another M2M-100"],
    ),
    "a random encoder": (
        ["model=nano_random", "model.path=null"],
        ["model.random.architecture=bert: task translation needs m2m_100"],
    ),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shelf, and a checkpoint that knows Indonesian and Javanese."""
    folder = tmp_path_factory.mktemp("data")
    write_shelf(folder)
    model, encoder = translator(("ind", "jav"))
    save_checkpoint(model, encoder.tokenizer, folder / "translator")
    return folder


def _as_said(ended: Ended, said: list[str], out: Path) -> None:
    assert (ended.code, len(ended.lines)) == (2, len(said)), ended.lines
    for line, fragment in zip(sorted(ended.lines), said, strict=True):
        assert fragment in line, ended.lines
    assert not (out / "runs").exists()


@pytest.mark.parametrize("name", WRONG)
def test_a_translation_that_cannot_be_is_refused(
    name: str, command: Callable[..., Ended], data: Path, tiny_bert: Path, tmp_path: Path
) -> None:
    mistake, said = WRONG[name]
    given = [*sentiment(data, tiny_bert, tmp_path / "outputs"), *translate_train()]
    ended = command(*given, *(word.replace("{bert}", str(tiny_bert)) for word in mistake))
    _as_said(ended, said, tmp_path / "outputs")


@pytest.mark.parametrize("name", ALONE)
def test_a_translator_that_cannot_be_is_refused(
    name: str, command: Callable[..., Ended], data: Path, tiny_bert: Path, tmp_path: Path
) -> None:
    mistake, said = ALONE[name]
    words = ["experiment=translation", "target=mad", f"data_dir={data}", f"output_dir={tmp_path / 'outputs'}",
             f"model.path={data}/translator", "model.run=null", "task.max_length=24", "tracker=silent", "device=cpu",
             *RECIPE]  # fmt: skip
    ended = command(*words, *(word.replace("{bert}", str(tiny_bert)) for word in mistake))
    _as_said(ended, said, tmp_path / "outputs")


@pytest.mark.parametrize(
    ("new", "said"),
    [
        (
            [],
            "language mad: ",
        ),
        (
            ["+model.new_languages.mad=sun"],
            "model.new_languages.mad=sun: ",
        ),
    ],
)
def test_what_a_translator_from_nothing_will_not_know_is_refused_before_it_is_trained(
    new: list[str], said: str, command: Callable[..., Ended], data: Path, tmp_path: Path
) -> None:
    words = ["experiment=translation", "target=mad", f"data_dir={data}", f"output_dir={tmp_path / 'outputs'}",
             "model.run.overrides=['data=nmt_nusax','target=jav']", "task.max_length=24", "tracker=silent",
             "device=cpu", *RECIPE]  # fmt: skip
    _as_said(command(*words, *new), [said], tmp_path / "outputs")
