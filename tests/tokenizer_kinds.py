"""Tokenizers of the three kinds, trained on a few lines, and sentences in scripts that break careless alignments."""

from __future__ import annotations

from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from xlt.models.vocabulary import SPECIAL_TOKENS, train_tokenizer

LINES = [
    "the cat sat on the mat, 5kg of it",
    "Hún sang ì kvøld um føroyar",
    "ọ̀rọ̀ tí a kọ sílẹ̀ ní Yorùbá",
    "מה שלומך היום בבית",
    "ئۇيغۇر تىلى بىر تۈركىي تىل",
    "今天天气很好我们去公园",
    "วันนี้อากาศดีมาก",
    "नमस्ते दुनिया क्षत्रिय",
    "👩‍👩‍👧 🇫🇴 ok 👍🏽",
] * 4
# Words, and the running text they stand in: with spaces, without, with marks and direction changes.
SENTENCES: dict[str, tuple[list[str], str]] = {
    "spaces": (["the", "cat", "sat"], "the cat sat"),
    "no space before punctuation": (["the", "mat", ",", "ok"], "the mat, ok"),
    "number and unit": (["5", "kg", "of", "it"], "5kg of it"),
    "several spaces": (["the", "cat"], "the \u00a0 cat "),
    "combining marks": (["ọ̀rọ̀", "tí", "Yorùbá"], "ọ̀rọ̀ tí Yorùbá"),
    "decomposed": (["Yoru\u0300ba\u0301", "ni\u0301"], "Yoru\u0300ba\u0301 ni\u0301"),
    "right to left": (["שלומך", "היום", "5", "בבית"], "שלומך היום 5 בבית"),
    "joined script": (["ئۇيغۇر", "تىلى"], "ئۇيغۇر تىلى"),
    "unspaced Chinese": (["今天", "天气", "很", "好"], "今天天气很好"),
    "unspaced Thai": (["วันนี้", "อากาศ", "ดี"], "วันนี้อากาศดี"),
    "conjuncts": (["नमस्ते", "क्षत्रिय"], "नमस्ते क्षत्रिय"),
    "emoji": (["👩‍👩‍👧", "ok", "👍🏽", "🇫🇴"], "👩‍👩‍👧 ok👍🏽 🇫🇴"),
    "repeated words": (["the", "the", "the", "cat"], "the the the cat"),
    "word within a word": (["a", "cat", "at"], "a cat at"),
    "unseen script": (["ᏣᎳᎩ", "ok"], "ᏣᎳᎩ ok"),
}


def wordpiece() -> Any:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(LINES, trainers.WordPieceTrainer(vocab_size=300, special_tokens=special))
    ids = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ids
    )
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), special, strict=True))
    inputs = ["input_ids", "token_type_ids", "attention_mask"]  # as BERT's has them
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_input_names=inputs, **names)


def unigram() -> Any:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    special = list(SPECIAL_TOKENS.values())
    trainer = trainers.UnigramTrainer(vocab_size=300, special_tokens=special, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(LINES, trainer)
    ids = [(token, tokenizer.token_to_id(token)) for token in ("<s>", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=ids
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL_TOKENS)


KINDS = {"WordPiece": wordpiece, "Unigram": unigram, "byte-level BPE": lambda: train_tokenizer(LINES, 400)}
