from __future__ import annotations

import pytest

from tests.source_configs import source_config
from xlt.data.readers import locale_expressions
from xlt.data.sources import read_source, source_identity
from xlt.errors import UsageError


def test_the_embedded_corpus_is_parallel_text_without_words() -> None:
    """One value in two languages, split by split, in both directions, and beside itself."""
    given = {"text_language": "eng", "cap": 30}
    into = list(read_source("x", source_config("locale_expressions", "deu", None, **given), 1))
    assert len(into) == 30
    assert all(one.words is None and one.columns == {} and one.languages == ("eng", "deu") for one in into)
    assert all(one.text and one.pair for one in into) and sum(one.text != one.pair for one in into) > 20
    back = source_config("locale_expressions", "deu", None, pair_language="eng", cap=30)
    assert next(iter(read_source("x", back, 1))).languages == ("deu", "eng")
    copies = source_config("locale_expressions", "eng", None, text_language="eng", pair_language="eng", cap=5)
    assert all(one.text == one.pair and one.words is None for one in read_source("x", copies, 1))
    test = {
        one.text for one in read_source("x", source_config("locale_expressions", "deu", None, split="test", **given), 1)
    }
    assert not test & {one.text for one in into if len(str(one.text).split()) > 4}


def test_a_language_outside_of_the_embedded_corpus_is_named_on_either_side() -> None:
    for language, other in (("deu", "ace"), ("ace", "deu")):
        source = source_config("locale_expressions", language, None, text_language=other, cap=3)
        with pytest.raises(UsageError, match=r"language=ace: not one of the .* languages of the embedded corpus"):
            locale_expressions.files(source)
    assert locale_expressions.files(source_config("locale_expressions", "deu", None, text_language="eng", cap=3)) == []


def test_a_variety_is_read_in_the_script_that_the_corpus_has_and_in_no_other() -> None:
    plain, variety = (source_config("locale_expressions", code, None, cap=9) for code in ("srp", "srp_Cyrl"))
    texts = [[one.text for one in read_source("x", source, 1)] for source in (plain, variety)]
    assert texts[0] == texts[1]
    assert locale_expressions.identity(plain) == locale_expressions.identity(variety)  # so that a leak is noticed
    for other, there in (("srp_Latn", "srp in script Cyrl"), ("cmn", "zho in script Hans")):
        with pytest.raises(UsageError, match=rf"language={other}: not one of the .* it has {there}"):
            locale_expressions.files(source_config("locale_expressions", other, None, cap=9))


def test_parallel_text_is_another_source_than_the_text_alone() -> None:
    plain, pairs, back = (
        source_identity(source_config("locale_expressions", "deu", None, cap=3, **more))
        for more in ({}, {"text_language": "eng"}, {"pair_language": "eng"})
    )
    assert plain != pairs != back != plain
