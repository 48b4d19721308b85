"""The language tokens of translators of the NLLB / M2M-100 family, and tokens for new languages (thesis §6.3.3)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import pycountry
import torch

from xlt.errors import UsageError
from xlt.languages import code_without_script, near_languages, script_of

_NLLB = re.compile(r"([a-z]{3})_([A-Z][a-z]{3})")
_M2M = re.compile(r"__([a-z]{2,3})__")
_USUAL_SCRIPT = "Latn"


def language_tokens(tokenizer: Any) -> dict[str, str]:
    """Returns language -> its token, for all languages for which a tokenizer has a token.

    Tokens have the form of NLLB (`ace_Latn`) or of M2M-100 (`__id__`). A token of NLLB is that of the variety with its
    name, `ace_Latn`, and of the code alone, `ace`. If there are tokens of several scripts, the code alone has that of
    the Latin script, or else the first. A token of M2M-100 is that of a code alone, because it names no script.
    """
    return _by_language(tokenizer.get_added_vocab())


def _by_language(names: Iterable[str]) -> dict[str, str]:
    """Returns language -> its token, for those of the tokens that are a language's."""
    tokens: dict[str, str] = {}
    for token in names:
        if (parts := _NLLB.fullmatch(token)) is not None:
            code = parts.group(1)
            tokens[token] = token
        elif (parts := _M2M.fullmatch(token)) is not None:
            language = pycountry.languages.get(alpha_2=parts[1]) or pycountry.languages.get(alpha_3=parts[1])
            if language is None:
                continue
            code = language.alpha_3
        else:
            continue
        if code not in tokens or (token.endswith(_USUAL_SCRIPT) and not tokens[code].endswith(_USUAL_SCRIPT)):
            tokens[code] = token
    return tokens


def add_language_tokens(tokenizer: Any, new: Mapping[str, str | None]) -> dict[str, str]:
    """Adds a token for each new language at the end of a tokenizer; languages with a token keep it.

    Args:
        tokenizer: changed in place.
        new: language -> a related language, whose script the token names, unless the language names its own script;
            None: Latin script.
    Returns:
        Language -> token, for the tokens that were added.
    Raises:
        UsageError: a related language has no token.
    """
    known = language_tokens(tokenizer)
    added: dict[str, str] = {}
    for language, relative in new.items():
        if language in known or language in _by_language(added.values()):
            continue
        script = None
        if relative is not None:
            token = {**_by_language(added.values()), **known}.get(relative)
            if token is None:
                codes = sorted({code_without_script(other) for other in known})
                raise UsageError(
                    f"model.new_languages.{language}={relative}: the model has no token for {relative}, either; "
                    f"it has tokens for {', '.join(near_languages(relative, known) or codes) or 'no language'}"
                )
            script = script_of(token) if _NLLB.fullmatch(token) is not None else None
        code, own_script = code_without_script(language), script_of(language)
        added[language] = f"{code}_{own_script or script or _USUAL_SCRIPT}"
    tokenizer.add_tokens(list(added.values()), special_tokens=True)
    return added


def initialise_language_embeddings(
    pretrained: Any, tokenizer: Any, new: Mapping[str, str | None], added: Mapping[str, str]
) -> None:
    """Initialises the embedding of each added token, by that of its related language or by the mean over all languages.

    If the tokens do not fit, the embedding matrix and output embeddings tied to it get more rows (NLLB has spare rows).

    Args:
        pretrained: transformers model, changed in place.
        tokenizer: contains the added tokens.
        new, added: argument and result of `add_language_tokens`.
    """
    if not added:
        return
    if len(tokenizer) > pretrained.get_input_embeddings().weight.shape[0]:
        pretrained.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    known = _by_language(token for token in tokenizer.get_added_vocab() if token not in added.values())
    tokens = {**_by_language(added.values()), **known}
    before = tokenizer.convert_tokens_to_ids([known[code] for code in known if script_of(code) is None])
    inputs, outputs = pretrained.get_input_embeddings(), pretrained.get_output_embeddings()
    matrices = {layer.weight.data_ptr(): layer.weight for layer in (inputs, outputs) if layer is not None}
    with torch.no_grad():
        for weight in matrices.values():
            for language, token in added.items():
                relative = new[language]
                beginning = before if relative is None else [tokenizer.convert_tokens_to_ids(tokens[relative])]
                if beginning:
                    weight[tokenizer.convert_tokens_to_ids(token)] = weight[beginning].mean(0)
