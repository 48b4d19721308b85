"""Pre-trained models taken apart: body and head together are what transformers computes."""

from __future__ import annotations

import pytest
import torch

from tests.xlt.models.conftest import encoder_model
from xlt.models.loading import take_apart, whole_pretrained
from xlt.models.student import count_blocks, make_student
from xlt.models.transfer import parameter_report


def _distilbert() -> object:
    from transformers import DistilBertConfig, DistilBertForMaskedLM

    torch.manual_seed(1)
    shape = DistilBertConfig(vocab_size=40, dim=16, n_layers=2, n_heads=2, hidden_dim=32, max_position_embeddings=24)
    return DistilBertForMaskedLM(shape).double()


def test_head_of_body_is_what_transformers_computes(family: str) -> None:
    model = encoder_model(family).eval().double()
    ids = torch.randint(5, 40, (2, 7), generator=torch.Generator().manual_seed(1))
    wanted = whole_pretrained(model)(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    torch.testing.assert_close(model.language_model_logits(model.encode(ids, torch.ones_like(ids))), wanted)


def test_a_decoder_keeps_no_keys_and_values_of_what_it_encodes(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

    shape = LlamaConfig(vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
    pretrained = LlamaForCausalLM(shape).eval().double()
    ids = torch.arange(5, 12)[None]
    wanted = pretrained.model(input_ids=ids).last_hidden_state
    monkeypatch.setattr(DynamicCache, "update", None)  # whoever calls it fails
    model = take_apart(pretrained, "llama")
    torch.testing.assert_close(model.encode(ids, torch.ones_like(ids)), wanted)
    assert model.backbone.config.use_cache  # type: ignore[union-attr]


def test_a_head_in_parts_is_one_head() -> None:
    """DistilmBERT, the baseline of thesis §5.4.1, keeps its head in four parts beside the body."""
    pretrained = _distilbert()
    model = take_apart(pretrained, "distilbert").eval()
    ids = torch.randint(5, 40, (2, 7), generator=torch.Generator().manual_seed(1))
    wanted = pretrained(input_ids=ids, attention_mask=torch.ones_like(ids)).logits  # type: ignore[operator]
    torch.testing.assert_close(model.language_model_logits(model.encode(ids, torch.ones_like(ids))), wanted)
    assert model.pretrained_parameters == sum(p.numel() for p in pretrained.parameters())  # type: ignore[attr-defined]
    assert (model.hidden_size, count_blocks(model)) == (16, 2)
    (projector,) = model.output_embeddings
    assert projector is model.lm_head.get_submodule("vocab_projector")  # type: ignore[union-attr]
    inputs = projector.weight
    assert not model.is_untied
    tie = model.untie_embeddings()
    assert model.is_untied and projector.weight is not inputs and torch.equal(projector.weight, inputs)
    model.untie_embeddings()()
    assert model.is_untied, "the second did not untie, and does not tie"
    tie()
    assert projector.weight is inputs
    student = make_student(model, [1], torch.arange(30), copies=True, seed=1)
    assert torch.equal(
        student.get_parameter("backbone.transformer.layer.0.attention.q_lin.weight"),
        model.get_parameter("backbone.transformer.layer.1.attention.q_lin.weight"),
    )


def test_embeddings_and_body_are_counted_apart() -> None:
    model = encoder_model("bert")
    told = parameter_report(model)
    embeddings = model.backbone.embeddings.word_embeddings  # type: ignore[union-attr]
    assert told["embedding_parameters"] == embeddings.weight.numel() == 40 * 16  # type: ignore[union-attr]
    assert told["parameters"] == told["embedding_parameters"] + told["body_parameters"]
    assert told["parameters"] == sum(p.numel() for p in model.backbone.parameters())
