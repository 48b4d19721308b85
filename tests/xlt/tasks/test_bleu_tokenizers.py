from __future__ import annotations

import importlib.util
from collections.abc import Sequence

import pytest
import sacrebleu

from xlt.tasks import bleu_tokenizers
from xlt.tasks.bleu_tokenizers import TOKENIZERS, absence, corpus_bleu, tokenizer_for


@pytest.fixture(params=[True, False], ids=["all there", "nothing there"])
def there(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr(bleu_tokenizers, "is_there", lambda tokenizer: request.param)
    return bool(request.param)


@pytest.mark.parametrize(
    ("languages", "best", "else_"),
    [
        (("zho", "cmn", "wuu", "yue", "lzh", "zho_Hans", "zho_Hant", "yue_Hant", "nan_Hant"), "zh", "zh"),
        (("jpn", "jpn_Jpan", "jpn_Hira"), "ja-mecab", "char"),
        (("kor", "kor_Hang", "kor_Kore"), "ko-mecab", "13a"),
        (("tha", "lao", "khm", "mya", "bod", "dzo", "shn", "jav_Java", "pli_Thai"), "flores200", "char"),
        (
            ("eng", "ind", "jav", "ace_Arab", "arb", "amh", "hin", "zho_Latn", "jpn_Latn", "bod_Latn", "nah"),
            "13a",
            "13a",
        ),
    ],
)
def test_the_tokenizer_goes_by_the_script(languages: Sequence[str], best: str, else_: str, there: bool) -> None:
    for language in languages:
        assert tokenizer_for(language, "auto") == (best if there else else_), language
        assert tokenizer_for(language, "intl") == "intl"


def test_the_score_of_one_tokenizer_is_sacrebleus_own() -> None:
    made, references = ["今天天气很好", "我们去公园吧"], ["今天天气不好", "我们去公园吧"]
    score, signature = corpus_bleu(made, references, ["zho", "cmn_Hans"], "auto")
    assert score == sacrebleu.corpus_bleu(made, [references], tokenize="zh").score and 0 < score < 100
    assert "|tok:zh|" in signature


def test_texts_of_several_tokenizers_are_counted_together() -> None:
    """The same as sacrebleu on texts that have spaces where their tokenizers cut: `zh` between the characters."""
    made, references = ["今天天气很好", "We go there, now."], ["今天天气不好", "We go home, now."]
    cut = [[" ".join(texts[0]), texts[1].replace(",", " ,").replace(".", " .")] for texts in (made, references)]
    score, signature = corpus_bleu(made, references, ["zho", "eng"], "auto")
    assert score == pytest.approx(sacrebleu.corpus_bleu(cut[0], [cut[1]], tokenize="none", force=True).score)
    assert "|tok:13a+zh|" in signature


def test_a_tokenizer_that_is_not_there_is_told_with_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for tokenizer, package in (("ja-mecab", "MeCab"), ("ko-mecab", "mecab_ko"), ("flores200", "sentencepiece")):
        assert package in (absence(tokenizer) or "") and "xlt[bleu]" in (absence(tokenizer) or "")
    assert [name for name in TOKENIZERS if absence(name) is None] == ["auto", "13a", "intl", "char", "zh"]
