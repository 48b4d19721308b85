"""Sizes of the measured models."""

from __future__ import annotations

from benchmark.shapes import ENCODERS, LANGUAGE_MODELS, bert_config, bert_tensors, llama_config
from transformers import BertForMaskedLM, LlamaForCausalLM

from xlt.models.transfer import TransferModel, split_pretrained


def test_tensors_have_the_names_that_a_module_file_has() -> None:
    model = TransferModel(*split_pretrained(BertForMaskedLM(bert_config("tiny"))), "random", "tiny")
    shapes = {name: tuple(tensor.shape) for name, tensor in model.named_parameters() if name.startswith("backbone.")}
    assert bert_tensors("tiny") == shapes


def test_mbert_has_the_published_number_of_parameters() -> None:
    """Of bert-base-multilingual-cased without its pooler: 177.26M."""
    entries = 0
    for shape in bert_tensors("mbert").values():
        rows, columns = (*shape, 1)[:2]
        entries += rows * columns
    assert entries == 177_262_848


def test_given_settings_take_precedence_over_those_of_the_size() -> None:
    config = bert_config("mini", vocab_size=1000, num_labels=17)
    assert (config.vocab_size, config.num_labels) == (1000, 17)
    assert (config.hidden_size, config.intermediate_size, config.num_hidden_layers) == (384, 1536, 12)


def test_every_size_divides_into_its_heads() -> None:
    for shape in [*ENCODERS.values(), *LANGUAGE_MODELS.values()]:
        assert shape.hidden % shape.heads == 0


def test_a_language_model_of_a_size_can_be_made() -> None:
    model = LlamaForCausalLM(llama_config("tiny"))
    assert model.get_input_embeddings().weight.shape == (100, 64)
    assert len(model.model.layers) == 2 and not model.config.use_cache
