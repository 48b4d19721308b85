"""Pre-trained models as they are loaded: what the config may change about them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from xlt.errors import UsageError
from xlt.models.loading import load_pretrained, load_tokenizer


def _outputs(folder: Path, dropout: float | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Hidden states of a batch while the model trains, and while it is evaluated."""
    # In float64: while it trains, attention may be summed in another order.
    model = load_pretrained(str(folder), dropout=dropout).double()
    ids = torch.randint(5, 40, (2, 7), generator=torch.Generator().manual_seed(1))
    torch.manual_seed(3)
    return model.train().encode(ids, torch.ones_like(ids)), model.eval().encode(ids, torch.ones_like(ids))


@pytest.mark.parametrize("family", ["tiny_bert", "tiny_xlm_r"])
def test_the_dropout_of_a_pretrained_model_may_be_another(family: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(family)
    own, evaluated = _outputs(folder, None)
    without, same = _outputs(folder, 0.0)
    more, again = _outputs(folder, 0.5)
    assert torch.equal(evaluated, same) and torch.equal(evaluated, again)  # it concerns training alone
    torch.testing.assert_close(without, evaluated)
    assert (more - evaluated).norm() > 1.5 * (own - evaluated).norm() > 0


def test_another_dropout_is_the_same_base_model_for_modules(tiny_bert: Path) -> None:
    assert load_pretrained(str(tiny_bert), dropout=0.0).base_hash == load_pretrained(str(tiny_bert)).base_hash


def test_a_model_without_dropout_is_given_none(tiny_bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xlt.models.loading._DROPOUT_KEYS", ())
    with pytest.raises(UsageError, match=r"model\.dropout=0\.2.*\bbert\b.*null"):
        load_pretrained(str(tiny_bert), dropout=0.2)


@pytest.mark.parametrize("slow", ["ByT5Tokenizer", "CanineTokenizer"])
def test_a_tokenizer_that_gives_no_places_is_refused_before_a_model_is_loaded(slow: str, tmp_path: Path) -> None:
    getattr(transformers, slow)().save_pretrained(tmp_path)
    with pytest.raises(UsageError, match=rf"model.path={tmp_path}: .*{slow}.*tokenizer.json"):
        load_tokenizer(str(tmp_path))


def test_a_tokenizer_that_gives_wrong_places_is_refused(tiny_bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    call = transformers.PreTrainedTokenizerFast.__call__

    def without_ends(self: Any, *arguments: Any, **options: Any) -> Any:  # as Llama 3 had them in tokenizers 0.19
        encoded = call(self, *arguments, **options)
        if options.get("return_offsets_mapping"):
            encoded["offset_mapping"] = [(start, start) for start, _ in encoded["offset_mapping"]]
        return encoded

    monkeypatch.setattr(transformers.PreTrainedTokenizerFast, "__call__", without_ends)
    with pytest.raises(UsageError, match=r"model.path=.*'w' of 'we can see it'.*tokenizers"):
        load_tokenizer(str(tiny_bert))
