"""Tokenizers of all families, trained on a few lines, and sentences in scripts that break careless alignments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
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


def wordpiece(lines: Sequence[str] = LINES, size: int = 300) -> Any:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=size, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(lines, trainer)
    ids = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ids
    )
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), special, strict=True))
    inputs = ["input_ids", "token_type_ids", "attention_mask"]  # as BERT's has them
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_input_names=inputs, **names)


def unigram(lines: Sequence[str] = LINES, size: int = 300) -> Any:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    special = list(SPECIAL_TOKENS.values())
    trainer = trainers.UnigramTrainer(vocab_size=size, special_tokens=special, unk_token="<unk>", show_progress=False)
    _train_as_sentencepiece(tokenizer, lines, trainer)
    ids = [(token, tokenizer.token_to_id(token)) for token in ("<s>", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=ids
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL_TOKENS)


def _train_as_sentencepiece(tokenizer: Tokenizer, lines: Sequence[str], trainer: Any) -> None:
    """No entry of the vocabulary has both letters and punctuation."""
    split = tokenizer.pre_tokenizer
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.Punctuation("contiguous")])
    tokenizer.train_from_iterator(lines, trainer)
    tokenizer.pre_tokenizer = split


def gpt2(lines: Sequence[str] = LINES, size: int = 400) -> Any:
    """GPT-2, RoBERTa, ModernBERT: bytes, and no space before a text."""
    return _byte_bpe(pre_tokenizers.ByteLevel(add_prefix_space=False), models.BPE(), lines, size)


def llama3(lines: Sequence[str] = LINES, size: int = 400) -> Any:
    """Llama 3 and Qwen: bytes, the regular expression of tiktoken, and whole words before merges."""
    pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
        r"\s+(?!\S)|\s+"
    )
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return _byte_bpe(pre_tokenizers.Sequence([split, as_bytes]), models.BPE(ignore_merges=True), lines, size)


def gemma(lines: Sequence[str] = LINES, size: int = 400) -> Any:
    """Gemma: letters with bytes as a last resort, spaces as letters, and no space before a text."""
    return _letter_bpe(normalizers.Replace(" ", "▁"), lines, size)


def llama2(lines: Sequence[str] = LINES, size: int = 400) -> Any:
    """Llama 2: as Gemma, with a space before a text."""
    return _letter_bpe(normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]), lines, size)


def _byte_bpe(split: Any, model: Any, lines: Sequence[str], size: int) -> Any:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = split
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return _bpe(tokenizer, lines, size, alphabet, [])


def _letter_bpe(normaliser: Any, lines: Sequence[str], size: int) -> Any:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")  # no entry is longer than a word
    made = _bpe(tokenizer, lines, size, [], [f"<0x{byte:02X}>" for byte in range(256)])
    made.backend_tokenizer.normalizer = normaliser
    made.backend_tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    return made


def _bpe(tokenizer: Tokenizer, lines: Sequence[str], size: int, alphabet: list[str], entries: list[str]) -> Any:
    special = [*SPECIAL_TOKENS.values(), *entries]
    trainer = trainers.BpeTrainer(
        vocab_size=size + len(entries), special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    _train_as_sentencepiece(tokenizer, lines, trainer) if entries else tokenizer.train_from_iterator(lines, trainer)
    ids = [(token, tokenizer.token_to_id(token)) for token in ("<s>", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=ids
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL_TOKENS)


KINDS = {"WordPiece": wordpiece, "Unigram": unigram, "byte-level BPE": lambda: train_tokenizer(LINES, 400)}
FAMILIES: dict[str, Callable[[Sequence[str], int], Any]] = {
    "WordPiece": wordpiece,
    "Unigram": unigram,
    "byte BPE, space before a text": train_tokenizer,
    "byte BPE": gpt2,
    "tiktoken": llama3,
    "letter BPE": gemma,
    "letter BPE, space before a text": llama2,
}
"""All families: name -> function of lines and size of the vocabulary."""
