"""Tiny translators of the M2M-100 family, and parallel text made up for them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from xlt.config import RandomModelConfig
from xlt.data.encoding import Encoder
from xlt.data.examples import Example
from xlt.models.language_tokens import add_language_tokens
from xlt.models.loading import random_pretrained, whole_pretrained
from xlt.models.transfer import TransferModel
from xlt.models.vocabulary import train_tokenizer

WORDS = {
    "ind": ("saya", "kamu", "makan", "minum", "nasi", "air", "di", "rumah", "pasar", "besar", "kecil", "baik"),
    "jav": ("aku", "kowe", "mangan", "ngombe", "sega", "banyu", "ing", "omah", "dalan", "gedhe", "cilik", "apik"),
    "mad": ("engko", "ba'na", "ngakan", "ngenom", "nase'", "aeng", "e", "roma", "lorong", "raja", "keni'", "bagus"),
}
"""A word of one language stands where its translation stands in the others."""


def parallel(source: str, target: str, count: int, seed: int = 0, words: tuple[int, int] = (2, 7)) -> list[Example]:
    """Sentences of words drawn at random, word for word beside themselves; the same for every pair of languages."""
    draw = random.Random(seed)
    examples = []
    for number in range(count):
        said = [draw.randrange(len(WORDS["ind"])) for _ in range(draw.randint(*words))]
        text, pair = (" ".join(WORDS[language][word] for word in said) for language in (source, target))
        examples.append(Example(f"{source}-{target}:{number}", text, pair=pair, languages=(source, target)))
    return examples


def tokenizer(languages: Sequence[str] = ("ind", "jav"), size: int = 400) -> Any:
    """Byte-level BPE of the made-up text, with tokens of the languages as NLLB writes them."""
    made = train_tokenizer((str(example.text) for language in WORDS for example in parallel(language, "ind", 20)), size)
    add_language_tokens(made, dict.fromkeys(languages))
    return made


def translator(
    languages: Sequence[str] = ("ind", "jav"), *, seed: int = 1, spread: float = 0.1, dropout: float = 0.0
) -> tuple[TransferModel, Encoder]:
    """M2M-100 of 2 + 2 layers x 32, no tensor of it like another, in evaluation mode.

    Args:
        languages: that it has tokens of.
        seed: of the weights.
        spread: standard deviation of what is added to each of them.
        dropout: of hidden states and attention.
    """
    words = tokenizer(languages)
    model = random_pretrained(RandomModelConfig("m2m_100", 2, 32, 2, 64, 48, 400, dropout), words, seed)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=spread)
    return model.eval(), Encoder(words)


def taught_translator(pairs: Sequence[tuple[str, str]], steps: int) -> tuple[TransferModel, Encoder]:
    """A translator that transformers' own loss has taught sixteen sentences of each pair, one pair a step in turn."""
    model, encoder = translator(sorted({language for pair in pairs for language in pair}), spread=0.02)
    words, whole = encoder.tokenizer, whole_pretrained(model)
    optimizer = torch.optim.AdamW(whole.parameters(), lr=1e-2)
    for step in range(steps):
        source, target = pairs[step % len(pairs)]
        examples = parallel(source, target, 16, words=(1, 4))
        batch = {}
        for name, language, texts in (
            ("input_ids", source, [example.text for example in examples]),
            ("labels", target, [example.pair for example in examples]),
        ):
            token = words.convert_tokens_to_ids(f"{language}_Latn")
            rows = [[token, *ids, words.sep_token_id] for ids in encoder.lines([str(text) for text in texts])]
            longest = max(map(len, rows))
            batch[name] = torch.tensor([[*row, *[words.pad_token_id] * (longest - len(row))] for row in rows])
        batch["attention_mask"] = (batch["input_ids"] != words.pad_token_id).long()
        batch["labels"][batch["labels"] == words.pad_token_id] = -100
        whole(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval(), encoder


def write_shelf(folder: Path) -> None:
    """SMSA's sentiment, NusaX's parallel text of Madurese and Javanese, and its sentiment, four texts a split.

    No text stands in two splits or data sets; NusaX's sentiment has the texts of its parallel text.
    """
    (folder / "smsa").mkdir(parents=True)
    (folder / "nusax" / "mt").mkdir(parents=True)
    for number, split in enumerate(("train", "valid", "test")):
        made = {language: parallel("ind", language, 8, seed=number, words=(5, 7)) for language in ("ind", "mad", "jav")}
        labels = ["positive", "negative", "neutral", "positive"]
        rows = [f"{one.text}\t{label}\n" for one, label in zip(made["ind"][:4], labels, strict=True)]
        (folder / "smsa" / f"{split}.tsv").write_text("".join(rows), encoding="utf-8")
        pairs = [",".join(str(made[language][n].pair) for language in ("ind", "mad", "jav")) for n in range(4, 8)]
        table = "\n".join(["indonesian,madurese,javanese", *pairs])
        (folder / "nusax" / "mt" / f"{split}.csv").write_text(table + "\n", encoding="utf-8")
        for language, examples in made.items():
            texts = [
                f"{n},{one.pair},{label}\n" for n, (one, label) in enumerate(zip(examples[4:], labels, strict=True))
            ]
            (folder / "nusax" / "senti" / language).mkdir(parents=True, exist_ok=True)
            file = folder / "nusax" / "senti" / language / f"{split}.csv"
            file.write_text("id,text,label\n" + "".join(texts), encoding="utf-8")
