"""Tiny models of today's families, with random weights and a tokenizer of the family's kind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
import transformers
from tokenizers import processors

from tests.tokenizer_kinds import LINES, unigram, wordpiece
from xlt.models.vocabulary import train_tokenizer

WIDE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
NARROW_IN = {**WIDE, "embedding_size": 8}
DECODER = {**WIDE, "num_key_value_heads": 1, "max_position_embeddings": 64}
PAIR = {f"{half}_{name}": value for half in ("encoder", "decoder") for name, value in
        (("layers", 2), ("attention_heads", 2), ("ffn_dim", 24))}  # fmt: skip
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2, "decoder_start_token_id": 0}
DEBERTA = {
    **WIDE, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False,
    "max_relative_positions": -1, "pooler_hidden_size": 16, "type_vocab_size": 0,
}  # fmt: skip
DEBERTA_2 = {**DEBERTA, "position_buckets": 8, "norm_rel_ebd": "layer_norm"}
GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64}


def byte_pieces() -> Any:
    """RoBERTa's kind: bytes, with `<s>` and `</s>` around a text."""
    return train_tokenizer(LINES, 300)


def bare_bytes() -> Any:
    """GPT-2's kind: bytes, no special token around a text, none for padding or masks."""
    return _decoders(train_tokenizer(LINES, 300), "$A", "$A $B")


def bytes_after_a_start() -> Any:
    """Llama's kind: `<s>` before a text, nothing after it, none for padding or masks."""
    return _decoders(train_tokenizer(LINES, 300), "<s> $A", "<s> $A <s> $B")


def pieces_before_an_end() -> Any:
    """T5's kind: Unigram pieces, `</s>` after a text and nothing before it, no mask."""
    tokenizer = unigram()
    ids = [("</s>", tokenizer.convert_tokens_to_ids("</s>"))]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=ids
    )
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, **special)


def _decoders(tokenizer: Any, single: str, pair: str) -> Any:
    backend = tokenizer.backend_tokenizer
    ids = [("<s>", tokenizer.convert_tokens_to_ids("<s>"))]
    backend.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=ids)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


@dataclass(frozen=True)
class Family:
    """A family of models.

    Attributes:
        config: class of transformers that holds the shape.
        tokenizer: makes a tokenizer of the family's kind.
        shape: arguments of `config`, without vocabulary and special ids.
        known: models of the family that users take.
    """

    config: str
    tokenizer: Callable[[], Any]
    shape: dict[str, Any] = field(default_factory=lambda: WIDE)
    known: str = ""

    @property
    def exists(self) -> bool:
        """Whether the installed transformers has the family."""
        return hasattr(transformers, self.config)

    def model_config(self) -> Any:
        """The shape; the embeddings have a few spare rows, because some families' tokenizers add tokens when loaded."""
        words = tokenizer_of(self.tokenizer)
        special = {
            f"{name}_token_id": getattr(words, f"{name}_token_id", None)
            for name in ("pad", "bos", "eos", "cls", "sep", "mask")
        }
        given = {name: value for name, value in special.items() if value is not None or name == "pad_token_id"}
        return getattr(transformers, self.config)(**{"vocab_size": len(words) + 8, **given, **self.shape})


FAMILIES: dict[str, Family] = {
    "BERT": Family("BertConfig", wordpiece, known="mBERT"),
    "RoBERTa": Family("RobertaConfig", byte_pieces, known="AfroXLMR's English relative"),
    "XLM-R": Family("XLMRobertaConfig", unigram, known="XLM-R, Glot500, AfroXLMR, XLM-V"),
    "DistilBERT": Family(
        "DistilBertConfig", wordpiece, {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24}, "DistilmBERT"
    ),
    "ALBERT": Family("AlbertConfig", unigram, NARROW_IN, "IndicBERT"),
    "ELECTRA": Family("ElectraConfig", wordpiece, NARROW_IN, "ELECTRA (generators)"),
    "DeBERTa": Family("DebertaConfig", byte_pieces, DEBERTA, "DeBERTa v1"),
    "DeBERTa v2": Family("DebertaV2Config", unigram, {**DEBERTA_2, "conv_kernel_size": 3, "share_att_key": False}),
    "DeBERTa v3": Family("DebertaV2Config", unigram, {**DEBERTA_2, "share_att_key": True}, "mDeBERTa"),
    "RemBERT": Family("RemBertConfig", unigram, {**WIDE, "input_embedding_size": 8, "output_embedding_size": 12}),
    "MPNet": Family("MPNetConfig", wordpiece, known="multilingual sentence encoders"),
    "XLM": Family("XLMConfig", unigram, {"emb_dim": 16, "n_layers": 2, "n_heads": 2, "n_langs": 1}, "XLM-17, XLM-100"),
    "X-MOD": Family(
        "XmodConfig",
        unigram,
        {**WIDE, "languages": ["en_XX", "de_DE"], "default_language": None, "adapter_reduction_factor": 2},
        "X-MOD",
    ),
    "ModernBERT": Family("ModernBertConfig", byte_pieces, {**WIDE, "global_attn_every_n_layers": 2}, "mmBERT"),
    "EuroBERT": Family("EuroBertConfig", byte_pieces, DECODER, "EuroBERT"),
    "NomicBERT": Family("NomicBertConfig", wordpiece, known="Nomic Embed"),
    "RoFormer": Family("RoFormerConfig", wordpiece),
    "T5": Family("T5Config", pieces_before_an_end, T5),
    "mT5": Family("MT5Config", pieces_before_an_end, T5, "mT5"),
    "UMT5": Family("UMT5Config", pieces_before_an_end, T5, "UMT5"),
    "BART": Family("BartConfig", byte_pieces, {"d_model": 16, **PAIR, "max_position_embeddings": 64}),
    "mBART": Family(
        "MBartConfig",
        unigram,
        {"d_model": 16, **PAIR, "max_position_embeddings": 64, "decoder_start_token_id": 2},
        "mBART-50",
    ),
    "M2M-100": Family("M2M100Config", unigram, {"d_model": 16, **PAIR, "max_position_embeddings": 64}, "NLLB, M2M-100"),
    "GPT-2": Family("GPT2Config", bare_bytes, GPT2, "Goldfish"),
    "BLOOM": Family("BloomConfig", bare_bytes, {"hidden_size": 16, "n_layer": 2, "n_head": 2}, "BLOOM, BLOOMZ"),
    "XGLM": Family(
        "XGLMConfig", unigram, {"d_model": 16, "num_layers": 2, "attention_heads": 2, "ffn_dim": 24}, "XGLM"
    ),
    "Llama": Family("LlamaConfig", bytes_after_a_start, DECODER, "Llama 2, Llama 3"),
    "Mistral": Family("MistralConfig", bytes_after_a_start, DECODER, "Mistral"),
    "Qwen 2": Family("Qwen2Config", bare_bytes, DECODER, "Qwen 2.5"),
    "Qwen 3": Family("Qwen3Config", bare_bytes, {**DECODER, "head_dim": 8}, "Qwen 3"),
    "Gemma 2": Family("Gemma2Config", bytes_after_a_start, {**DECODER, "head_dim": 8}, "Gemma 2"),
    "Gemma 3": Family("Gemma3TextConfig", bytes_after_a_start, {**DECODER, "head_dim": 8}, "Gemma 3 (text)"),
    "SmolLM 3": Family("SmolLM3Config", bare_bytes, DECODER, "SmolLM 3"),
    "OLMo 2": Family("Olmo2Config", bare_bytes, DECODER, "OLMo 2"),
    "Apertus": Family("ApertusConfig", bytes_after_a_start, DECODER, "Apertus"),
    "Cohere": Family("CohereConfig", bytes_after_a_start, DECODER, "Aya 23"),
    "Granite": Family("GraniteConfig", bare_bytes, {**DECODER, "logits_scaling": 3.0, "residual_multiplier": 0.5}),
}


@cache
def tokenizer_of(kind: Callable[[], Any]) -> Any:
    return kind()


def save_family(name: str, folder: Any) -> None:
    """Writes a checkpoint of the family with random weights, no tensor of which is like another, and its tokenizer."""
    from xlt.models.loading import _class_for

    family = FAMILIES[name]
    config = family.model_config()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(3)
        pretrained = _class_for(config, needs_head=True).from_config(config)
        for parameter in pretrained.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    pretrained.save_pretrained(folder)
    tokenizer_of(family.tokenizer).save_pretrained(folder)
