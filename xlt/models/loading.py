"""Loads pre-trained models and tokenizers from a local folder or the hub, and builds models with random weights."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch

from xlt.config import RandomModelConfig
from xlt.errors import UsageError
from xlt.models.families import (
    DECODER,
    ENCODER,
    ENCODER_DECODER,
    TRANSLATOR,
    architecture,
    built_in_languages,
    family_fault,
)
from xlt.models.mixed_precision import support_autocast
from xlt.models.transfer import TransferModel, parameter_hash, split_pretrained
from xlt.models.vocabulary_reduction import save_tokenizer

_IDENTITY_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "*.safetensors",
    "tokenizer.model",
    "sentencepiece.bpe.model",
    "spiece.model",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "pytorch_model.bin",
)

# A text each of whose letters must stand in a piece.
_PROBE = "we can see it"

# The config keys of model families for the dropout of hidden states and of attention.
_DROPOUT_KEYS = (
    *("hidden_dropout_prob", "attention_probs_dropout_prob", "hidden_dropout", "dropout", "attention_dropout"),
    *("resid_pdrop", "embd_pdrop", "attn_pdrop"),
)


def load_tokenizer(path: str, revision: str | None = None) -> Any:
    """Loads the fast tokenizer of a model.

    Args:
        path: local folder or hub id.
        revision: of the hub; None for the newest.
    Raises:
        UsageError: the tokenizer does not load, or does not say where its pieces stand in a text, because it is a slow
            one (ByT5 and CANINE have no other) or gives wrong places.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(_expand(path), revision=revision, use_fast=True)
    except Exception as error:
        raise UsageError(f"model.path={path}: the tokenizer cannot be loaded: {_first_line(error)}") from error
    if not tokenizer.is_fast:
        kind = type(tokenizer).__name__
        raise UsageError(
            f"model.path={path}: its tokenizer, {kind}, is a slow one, which does not say where its pieces stand in a "
            "text; take a model whose tokenizer has a tokenizer.json"
        )
    spans = tokenizer(_PROBE, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    located = {place for start, end in spans for place in range(start, end)}
    if missing := [letter for place, letter in enumerate(_PROBE) if letter != " " and place not in located]:
        raise UsageError(
            f"model.path={path}: its tokenizer says of no piece that it has the {missing[0]!r} of {_PROBE!r}, so words "
            "cannot be found; take the newest release of the package tokenizers, or another model"
        )
    return tokenizer


def load_pretrained(
    path: str,
    revision: str | None = None,
    dtype: torch.dtype = torch.float32,
    prepare: Callable[[Any], None] = lambda _: None,
    dropout: float | None = None,
) -> TransferModel:
    """Loads a pre-trained encoder, decoder or encoder-decoder with its language-model head.

    Encoder-decoders that are no translators come without it, because no task uses it.

    Args:
        path: local folder or hub id.
        revision: of the hub; None for the newest.
        dtype: of the weights.
        prepare: changes the transformers model before it is split into body and head.
        dropout: probability for hidden states and attention; None for the model's own values.
    Raises:
        UsageError: the model cannot be loaded or taken apart, or `dropout` is given and the model family has none.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(_expand(path), revision=revision)
        if (fault := family_fault(config)) is not None:
            raise UsageError(f"model.path={path}: {fault}")
        if dropout is not None:
            _set_dropout(config, dropout)
        pretrained = _class_for(config).from_pretrained(_expand(path), revision=revision, dtype=dtype, config=config)
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"model.path={path}: the model cannot be loaded: {_first_line(error)}") from error
    prepare(pretrained)
    return take_apart(pretrained, path)


def skeleton(config: Any, name: str) -> TransferModel:
    """Builds a model without weights, on torch's meta device, to look at its modules and their names.

    Args:
        config: transformers config.
        name: path or hub id, for messages.
    """
    with torch.device("meta"):
        pretrained = _class_for(config).from_config(config)
    return TransferModel(*split_pretrained(pretrained), "", name)


def _class_for(config: Any) -> Any:
    """Returns the class of transformers that loads a model for our tasks."""
    from transformers import (
        MODEL_FOR_MASKED_LM_MAPPING,
        AutoModel,
        AutoModelForCausalLM,
        AutoModelForMaskedLM,
        AutoModelForSeq2SeqLM,
    )

    kind = architecture(config)
    if kind == ENCODER_DECODER:
        return AutoModelForSeq2SeqLM if config.model_type == TRANSLATOR else AutoModel
    masked = kind == ENCODER and type(config) in MODEL_FOR_MASKED_LM_MAPPING
    return AutoModelForMaskedLM if masked else AutoModelForCausalLM


def _set_dropout(config: Any, probability: float) -> None:
    names = [name for name in _DROPOUT_KEYS if hasattr(config, name)]
    if not names:
        raise UsageError(f"model.dropout={probability}: models of type {config.model_type} have no dropout; set null")
    for name in names:
        setattr(config, name, probability)


def random_pretrained(config: RandomModelConfig, tokenizer: Any, seed: int) -> TransferModel:
    """Builds a model of the configured shape with random weights; its vocabulary is that of the tokenizer."""
    from transformers import AutoModelForMaskedLM, AutoModelForSeq2SeqLM

    translates = config.architecture == TRANSLATOR
    shape = _translator_config(config, tokenizer) if translates else _encoder_config(config, tokenizer)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pretrained = (AutoModelForSeq2SeqLM if translates else AutoModelForMaskedLM).from_config(shape)
    return take_apart(pretrained, "random")


def _encoder_config(config: RandomModelConfig, tokenizer: Any) -> Any:
    from transformers import AutoConfig

    return AutoConfig.for_model(
        config.architecture,
        vocab_size=len(tokenizer),
        hidden_size=config.hidden_size,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        intermediate_size=config.intermediate_size,
        max_position_embeddings=config.max_positions + 2,
        hidden_dropout_prob=config.dropout,
        attention_probs_dropout_prob=config.dropout,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.cls_token_id,
        eos_token_id=tokenizer.sep_token_id,
        type_vocab_size=1,
    )


def _translator_config(config: RandomModelConfig, tokenizer: Any) -> Any:
    from transformers import AutoConfig

    halves = {
        f"{half}_{name}": value
        for half in ("encoder", "decoder")
        for name, value in (
            ("layers", config.layers),
            ("attention_heads", config.heads),
            ("ffn_dim", config.intermediate_size),
            ("layerdrop", 0.0),
        )
    }
    return AutoConfig.for_model(
        config.architecture,
        vocab_size=len(tokenizer),
        d_model=config.hidden_size,
        max_position_embeddings=config.max_positions,
        dropout=config.dropout,
        attention_dropout=config.dropout,
        activation_dropout=0.0,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.cls_token_id,
        eos_token_id=tokenizer.sep_token_id,
        decoder_start_token_id=tokenizer.sep_token_id,
        **halves,
    )


def save_checkpoint(model: TransferModel, tokenizer: Any, folder: Path) -> None:
    """Writes backbone and language-model head as a transformers checkpoint that `from_pretrained` reads."""
    whole_pretrained(model).save_pretrained(folder)
    save_tokenizer(tokenizer, folder)


def whole_pretrained(model: TransferModel) -> Any:
    """Returns the transformers model from which `model` was split; they share their parameters."""
    return model.backbone.__dict__["_xlt_pretrained"][0]


@cache
def model_identity(path: str, revision: str | None) -> str:
    """Returns the identity of a model for a run's fingerprint: a digest of a local folder, or hub id and revision.

    Raises:
        UsageError: a local folder has no weights.
    """
    folder = Path(_expand(path))
    if not folder.is_dir():
        return json.dumps({"hub": path, "revision": revision})
    files = sorted({file for pattern in _IDENTITY_FILES for file in folder.glob(pattern)})
    if not any(file.suffix in (".safetensors", ".bin") for file in files):
        raise UsageError(f"model.path={path}: the folder has no weights; expected a file such as model.safetensors")
    digest = hashlib.blake2b(digest_size=16)
    for file in files:
        digest.update(file.name.encode())
        with file.open("rb") as stream:
            while block := stream.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


def quiet_libraries() -> None:
    """Switches off the progress bars and advice of transformers, which would disturb our progress bar."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def take_apart(pretrained: Any, name: str) -> TransferModel:
    """Splits a transformers model into a `TransferModel`, and checks that the parts do what the whole does.

    Args:
        pretrained: the transformers model.
        name: path or hub id, for messages.
    Raises:
        UsageError: the head does not compute the model's logits from the body's output, or tokens see others than
            those that the model's type says.
    """
    backbone, lm_head = split_pretrained(pretrained)
    # Kept outside the module tree: only `whole_pretrained` needs it, and its names must not count twice.
    backbone.__dict__["_xlt_pretrained"] = (pretrained,)
    support_autocast(backbone)
    model = TransferModel(backbone, lm_head, parameter_hash(backbone), name)
    training = pretrained.training
    pretrained.eval()
    try:
        _check_parts(pretrained, model)
    finally:
        pretrained.train(training)
    return model


@torch.no_grad()
def _check_parts(pretrained: Any, model: TransferModel) -> None:
    """Runs the model on a text of three tokens, and on another that differs in the last one."""
    config = pretrained.config
    kind = architecture(config)
    if built_in_languages(config) is not None:
        pretrained.set_default_language(config.default_language or config.languages[0])
    if kind == ENCODER_DECODER and model.lm_head is None:
        return
    first = max(model.vocabulary // 2 - 4, 0)  # in the middle of the vocabulary, where no special tokens are
    text, other = (torch.tensor([[first, first + 1, last]], device=model.device) for last in (first + 2, first + 3))
    mask = torch.ones_like(text)
    more: dict[str, Any] = {}
    if kind == ENCODER_DECODER:
        hidden, more = model.decode(text, mask, text), {"decoder_input_ids": text}
    else:
        hidden = model.encode(text, mask)
        is_blind = torch.equal(hidden[:, 0], model.encode(other, mask)[:, 0])
        if is_blind is not (kind == DECODER):
            raise UsageError(
                f"model.path={model.base_name}: models of type {config.model_type} are taken for a {kind}, but here a "
                f"token does {'not ' if is_blind else ''}see those after it; such models are not supported"
            )
    if model.lm_head is None:
        return
    if "use_cache" in inspect.signature(pretrained.forward).parameters:
        more["use_cache"] = False
    logits = pretrained(input_ids=text, **more).logits.float()
    relative = min(100 * torch.finfo(hidden.dtype).eps, 0.1)
    if not torch.allclose(
        model.language_model_logits(hidden).float(), logits, rtol=0, atol=relative * float(logits.abs().max())
    ):
        raise UsageError(
            f"model.path={model.base_name}: {type(pretrained).__name__} computes its logits in a way that xlt does not "
            "know; such models are not supported"
        )


def _expand(path: str) -> str:
    return str(Path(path).expanduser()) if path.startswith("~") else path


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
