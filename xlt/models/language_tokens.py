"""The tokens by which a translator of the NLLB / M2M-100 family is told languages, and new ones (thesis §6.3.3)."""

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
    """ISO 639-3 code -> token, of all languages that a tokenizer has one for.

    Tokens are written as NLLB does (`ace_Latn`) or as M2M-100 does (`__id__`). Of a language in several scripts it is
    the one in Latin script, else the first.
    """
    found: dict[str, str] = {}
    for token in tokenizer.get_added_vocab():
        if (parts := _NLLB.fullmatch(token)) is not None:
            code = parts.group(1)
        elif (parts := _M2M.fullmatch(token)) is not None:
            known = pycountry.languages.get(alpha_2=parts.group(1)) or pycountry.languages.get(alpha_3=parts.group(1))
            if known is None:
                continue
            code = known.alpha_3
        else:
            continue
        if code not in found or (token.endswith(_USUAL_SCRIPT) and not found[code].endswith(_USUAL_SCRIPT)):
            found[code] = token
    return found


def add_language_tokens(tokenizer: Any, new: Mapping[str, str | None]) -> dict[str, str]:
    """Gives a tokenizer a token for each new language, at its end; languages that have one keep it.

    Args:
        tokenizer: changed.
        new: ISO 639-3 code -> relative, whose script the token names; None: Latin script.
    Returns:
        Code -> token of those that were added.
    Raises:
        UsageError: a relative has no token.
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
                    f"model.new_languages.{code}={relative}: the model has no token for {relative} either; "
                    f"it knows {', '.join(sorted(known)) or 'no language'}"
                )
            script = parts.group(2) if (parts := _NLLB.fullmatch(token)) is not None else _USUAL_SCRIPT
        added[code] = f"{code}_{script}"
    tokenizer.add_tokens(list(added.values()), special_tokens=True)
    return added


def begin_language_embeddings(
    pretrained: Any, tokenizer: Any, new: Mapping[str, str | None], added: Mapping[str, str]
) -> None:
    """Gives each added token the embedding of its relative's, or the mean over the languages that were there.

    The embedding matrix, and output embeddings tied to it, grow where the tokens do not fit (NLLB has spare rows).

    Args:
        pretrained: transformers model, changed.
        tokenizer: with the new tokens.
        new, added: as given to and returned by `add_language_tokens`.
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
