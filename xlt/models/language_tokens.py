"""The language tokens of translators of the NLLB / M2M-100 family, and tokens for new languages (thesis §6.3.3)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pycountry
import torch

from xlt.errors import UsageError

_NLLB = re.compile(r"([a-z]{3})_([A-Z][a-z]{3})")
_M2M = re.compile(r"__([a-z]{2,3})__")
_USUAL_SCRIPT = "Latn"


def language_tokens(tokenizer: Any) -> dict[str, str]:
    """Returns ISO 639-3 code -> language token, for all languages for which a tokenizer has a token.

    Tokens have the form of NLLB (`ace_Latn`) or of M2M-100 (`__id__`). For a language in several scripts, the result
    has the token of the Latin script, or else the first token.
    """
    tokens: dict[str, str] = {}
    for token in tokenizer.get_added_vocab():
        if (parts := _NLLB.fullmatch(token)) is not None:
            code = parts.group(1)
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
        new: ISO 639-3 code -> code of a related language, whose script the token names; None: Latin script.
    Returns:
        Code -> token, for the tokens that were added.
    Raises:
        UsageError: a related language has no token.
    """
    known = language_tokens(tokenizer)
    added: dict[str, str] = {}
    for code, relative in new.items():
        if code in known:
            continue
        script = _USUAL_SCRIPT
        if relative is not None:
            token = {**known, **added}.get(relative)
            if token is None:
                raise UsageError(
                    f"model.new_languages.{code}={relative}: the model has no token for {relative}, either; "
                    f"it has tokens for {', '.join(sorted(known)) or 'no language'}"
                )
            script = parts.group(2) if (parts := _NLLB.fullmatch(token)) is not None else _USUAL_SCRIPT
        added[code] = f"{code}_{script}"
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
    tokens = language_tokens(tokenizer)
    before = tokenizer.convert_tokens_to_ids([token for code, token in tokens.items() if code not in added])
    inputs, outputs = pretrained.get_input_embeddings(), pretrained.get_output_embeddings()
    matrices = {layer.weight.data_ptr(): layer.weight for layer in (inputs, outputs) if layer is not None}
    with torch.no_grad():
        for weight in matrices.values():
            for code, token in added.items():
                relative = new[code]
                beginning = before if relative is None else [tokenizer.convert_tokens_to_ids(tokens[relative])]
                if beginning:
                    weight[tokenizer.convert_tokens_to_ids(token)] = weight[beginning].mean(0)
