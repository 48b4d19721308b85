from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.tolerance import summation_tolerance
from tests.translators import tokenizer, translator
from xlt.errors import UsageError
from xlt.models.language_tokens import add_language_tokens, initialise_language_embeddings, language_tokens
from xlt.models.loading import load_pretrained, load_tokenizer, save_checkpoint, whole_pretrained
from xlt.models.vocabulary import train_tokenizer


def with_tokens(*tokens: str) -> Any:
    made = train_tokenizer(["a b c"], 300)
    made.add_tokens(list(tokens), special_tokens=True)
    return made


def whole(languages: Sequence[str]) -> tuple[Any, Any]:
    """A tiny translator as transformers has it, and its tokenizer."""
    model, encoder = translator(languages)
    return whole_pretrained(model), encoder.tokenizer


def test_tokens_are_found_as_nllb_writes_them() -> None:
    found = language_tokens(with_tokens("ace_Arab", "ace_Latn", "eng_Latn", "zho_Hans", "zho_Hant", "tam_Taml"))
    varieties = ("ace_Arab", "ace_Latn", "eng_Latn", "zho_Hans", "zho_Hant", "tam_Taml")
    codes = {"ace": "ace_Latn", "eng": "eng_Latn", "zho": "zho_Hans", "tam": "tam_Taml"}
    assert found == {**codes, **{variety: variety for variety in varieties}}
    for names in (("bjn_Latn", "bjn_Arab"), ("bjn_Arab", "bjn_Latn")):
        assert language_tokens(with_tokens(*names))["bjn"] == "bjn_Latn"  # whichever comes first


def test_tokens_are_found_as_m2m_100_writes_them() -> None:
    """Two letters are ISO 639-1, three ISO 639-3; __ns__ is M2M-100's own word for Northern Sotho."""
    found = language_tokens(with_tokens("__en__", "__id__", "__ceb__", "__ns__"))
    assert found == {"eng": "__en__", "ind": "__id__", "ceb": "__ceb__"}


def test_other_tokens_are_no_languages() -> None:
    assert language_tokens(with_tokens("<extra>", "ENG_Latn", "eng_latn", "eng", "_eng_Latn", "__english__")) == {}


def test_a_new_token_stands_at_the_end_and_has_its_relatives_script() -> None:
    words = with_tokens("eng_Latn", "tam_Taml", "__id__")
    size = len(words)
    added = add_language_tokens(words, {"mad": None, "xty": "tam", "eng": None, "bew": "ind", "nij": "xty"})
    assert added == {"mad": "mad_Latn", "xty": "xty_Taml", "bew": "bew_Latn", "nij": "nij_Taml"}
    assert words.convert_tokens_to_ids(list(added.values())) == list(range(size, size + 4))
    assert add_language_tokens(words, {"mad": None}) == {} and len(words) == size + 4


def test_the_token_of_a_new_variety_is_its_name() -> None:
    words = with_tokens("ace_Arab", "kas_Arab", "kas_Deva", "__id__")
    new = {"ace": None, "ace_Arab": None, "ace_Latn": "ace_Arab", "kas_Latn": "kas"}
    added = add_language_tokens(words, {**new, "mad": "ace_Arab", "ind_Arab": "ind"})
    assert added == {"ace_Latn": "ace_Latn", "kas_Latn": "kas_Latn", "mad": "mad_Arab", "ind_Arab": "ind_Arab"}
    with pytest.raises(UsageError, match=r"no token for ace_Thai, either; it has tokens for ace, ace_Arab, ace_Latn"):
        add_language_tokens(words, {"bew": "ace_Thai"})


def test_a_new_variety_begins_with_the_token_that_its_code_had() -> None:
    pretrained, words = whole(("kas_Arab", "ind_Latn"))
    before = pretrained.model.shared.weight.detach().clone()
    new = {"kas_Latn": "kas", "kas_Deva": None}
    initialise_language_embeddings(pretrained, words, new, add_language_tokens(words, new))
    matrix = pretrained.model.shared.weight
    known = words.convert_tokens_to_ids(["kas_Arab", "ind_Latn"])
    assert torch.equal(matrix[words.convert_tokens_to_ids("kas_Latn")], before[known[0]])
    _assert_mean(matrix[words.convert_tokens_to_ids("kas_Deva")], before[known])


def test_a_new_token_is_one_piece_that_no_text_keeps(tmp_path: Path) -> None:
    words = with_tokens("eng_Latn")
    (token,) = add_language_tokens(words, {"mad": "eng"}).values()
    words.save_pretrained(tmp_path)
    for one in (words, load_tokenizer(str(tmp_path))):
        (number,) = one.convert_tokens_to_ids([token])
        text = one("a b", add_special_tokens=False)["input_ids"]
        assert one.decode([number, *text], skip_special_tokens=True).strip() == "a b"
        assert language_tokens(one)["mad"] == token


def test_a_relative_without_a_token_is_one_line_and_adds_nothing() -> None:
    words = with_tokens("eng_Latn", "__id__")
    size = len(words)
    with pytest.raises(UsageError) as refused:
        add_language_tokens(words, {"bew": None, "mad": "jav"})
    (line,) = refused.value.lines
    assert line.startswith("model.new_languages.mad=jav: ") and line.endswith("eng, ind")
    assert len(words) == size
    with pytest.raises(UsageError, match=r"no token for eng\b.*no language"):
        add_language_tokens(with_tokens(), {"mad": "eng"})


def _assert_mean(found: Tensor, rows: Tensor) -> None:
    tolerance = summation_tolerance(len(rows), rows.dtype) * float(rows.abs().max())
    torch.testing.assert_close(found, rows.mean(0), rtol=0, atol=tolerance)


@pytest.mark.parametrize("relative", ["jav", None])
def test_a_new_language_begins_with_its_relatives_embedding_or_the_mean(relative: str | None) -> None:
    pretrained, words = whole(("ind", "jav", "eng"))
    before = pretrained.model.shared.weight.detach().clone()
    size, new = len(words), {"mad": relative}
    initialise_language_embeddings(pretrained, words, new, add_language_tokens(words, new))
    matrix = pretrained.model.shared.weight
    known = words.convert_tokens_to_ids(["jav_Latn"] if relative else ["ind_Latn", "jav_Latn", "eng_Latn"])
    assert matrix.shape[0] == size + 1
    _assert_mean(matrix[size], before[known])
    assert torch.equal(matrix[:size], before)  # bit for bit


def test_two_new_languages_begin_from_those_before_and_one_from_the_other() -> None:
    """The mean is over the languages that were there, so the order of the new ones does not show."""
    pretrained, words = whole(("ind", "jav"))
    new = {"mad": None, "nij": "mad", "bew": None}
    before = pretrained.model.shared.weight.detach().clone()
    initialise_language_embeddings(pretrained, words, new, add_language_tokens(words, new))
    known = before[words.convert_tokens_to_ids(["ind_Latn", "jav_Latn"])]
    found = pretrained.model.shared.weight[words.convert_tokens_to_ids(["mad_Latn", "nij_Latn", "bew_Latn"])]
    _assert_mean(found[0], known)
    assert torch.equal(found, found[:1].expand(3, -1))


def test_embeddings_stay_tied_everywhere_and_in_what_is_saved(tmp_path: Path) -> None:
    pretrained, words = whole(("ind", "jav"))
    new = {"mad": "jav"}
    initialise_language_embeddings(pretrained, words, new, add_language_tokens(words, new))
    shared = pretrained.model.shared.weight
    encoder, decoder = pretrained.model.encoder.embed_tokens, pretrained.model.decoder.embed_tokens
    assert encoder.weight is shared and decoder.weight is shared and pretrained.lm_head.weight is shared
    assert encoder.embed_scale == decoder.embed_scale == 32**0.5  # the kind of layer is what it was
    assert pretrained.config.vocab_size == len(words) == shared.shape[0]
    pretrained.save_pretrained(tmp_path)
    words.save_pretrained(tmp_path)
    assert torch.equal(load_pretrained(str(tmp_path)).backbone.shared.weight, shared)  # type: ignore[union-attr]


def test_untied_output_embeddings_begin_with_their_own_rows() -> None:
    pretrained, words = whole(("ind", "jav"))
    pretrained.config.tie_word_embeddings = False
    pretrained.lm_head.weight = torch.nn.Parameter(torch.randn_like(pretrained.lm_head.weight))
    before = pretrained.lm_head.weight.detach().clone()
    size, new = len(words), {"mad": "jav"}
    initialise_language_embeddings(pretrained, words, new, add_language_tokens(words, new))
    assert torch.equal(pretrained.lm_head.weight[size], before[words.convert_tokens_to_ids("jav_Latn")])
    assert torch.equal(pretrained.lm_head.weight[:size], before)


def test_spare_rows_are_used_before_the_matrix_grows() -> None:
    """NLLB's matrix has 256,206 rows, its tokenizer 256,204 entries."""
    pretrained, words = whole(("ind", "jav"))
    size = len(words)
    pretrained.resize_token_embeddings(size + 2, mean_resizing=False)
    matrix = pretrained.model.shared.weight
    before = matrix.detach().clone()
    new: dict[str, str | None] = {"mad": "jav", "nij": "ind"}
    initialise_language_embeddings(pretrained, words, new, add_language_tokens(words, new))
    assert pretrained.model.shared.weight is matrix and matrix.shape[0] == size + 2
    relatives = words.convert_tokens_to_ids(["jav_Latn", "ind_Latn"])
    assert torch.equal(matrix[size:], before[relatives]) and torch.equal(matrix[:size], before[:size])
    initialise_language_embeddings(pretrained, words, {"bew": None}, add_language_tokens(words, {"bew": None}))
    assert pretrained.model.shared.weight.shape[0] == size + 3
    assert torch.equal(pretrained.model.shared.weight[:size], before[:size])


def test_without_a_new_language_nothing_is_touched() -> None:
    pretrained, words = whole(("ind", "jav"))
    before = {name: tensor.clone() for name, tensor in pretrained.state_dict().items()}
    initialise_language_embeddings(pretrained, words, {"jav": None}, add_language_tokens(words, {"jav": None}))
    assert all(torch.equal(tensor, before[name]) for name, tensor in pretrained.state_dict().items())


def test_a_random_translator_has_a_row_for_each_entry_and_all_of_its_shape(tmp_path: Path) -> None:
    model, encoder = translator(("ind", "jav"), dropout=0.3)
    config = whole_pretrained(model).config
    assert model.vocabulary == len(encoder.tokenizer) == len(tokenizer(("ind", "jav")))
    assert (config.encoder_layers, config.decoder_layers, config.d_model) == (2, 2, 32)
    assert (config.encoder_ffn_dim, config.decoder_ffn_dim, config.dropout) == (64, 64, 0.3)
    assert config.decoder_start_token_id == config.eos_token_id == encoder.tokenizer.sep_token_id
    save_checkpoint(model, encoder.tokenizer, tmp_path)
    again = load_pretrained(str(tmp_path))
    assert again.decodes and again.lm_head is not None
    assert torch.equal(again.lm_head.weight, model.lm_head.weight)  # type: ignore[union-attr]
