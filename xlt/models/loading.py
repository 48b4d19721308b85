"""Loads pre-trained models and tokenizers from a local folder or the hub, and builds models with random weights."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from xlt.config import RandomModelConfig
from xlt.errors import UsageError
from xlt.models.checkpoint import (
    Differences,
    check_finite,
    compare,
    decoder_is_unused,
    draw_head,
    expanded,
    faults,
    first_line,
    load_config,
    may_draw_head,
    missing_of_head,
    named,
    tensor_shapes,
    tied_apart,
    untrusted_code,
)
from xlt.models.families import (
    DECODER,
    ENCODER,
    ENCODER_DECODER,
    TRANSLATOR,
    architecture,
    built_in_languages,
    family_fault,
    has_masked_head,
    ties_by_checkpoint,
)
from xlt.models.mixed_precision import support_autocast
from xlt.models.transfer import TransferModel, base_hash, split_pretrained
from xlt.models.vocabulary_reduction import save_tokenizer

# All that transformers may read or run when it loads a model or its tokenizer.
_IDENTITY_FILES = ("*.json", "*.jinja", "*/*.jinja", "*.safetensors", "*.bin", "*.model", "*.txt", "*.py")

_COPY_AGAIN = "copy the model again, or correct its config.json"

# A text each of whose letters must stand in a piece.
_PROBE = "we can see it"

# The config keys of model families for the dropout of hidden states and of attention.
_DROPOUT_KEYS = (
    *("hidden_dropout_prob", "attention_probs_dropout_prob", "hidden_dropout", "dropout", "attention_dropout"),
    *("resid_pdrop", "embd_pdrop", "attn_pdrop"),
)
_MOST_BUFFER_BYTES = 4 << 30


def load_tokenizer(path: str, revision: str | None = None, *, trust_remote_code: bool = False) -> Any:
    """Loads the fast tokenizer of a model.

    Args:
        path: local folder or hub id.
        revision: of the hub; None for the newest.
        trust_remote_code: whether Python code beside the tokenizer may be run.
    Raises:
        UsageError: the tokenizer does not load, or does not say where its pieces stand in a text, because it is a slow
            one (ByT5 and CANINE have no other) or gives wrong places.
    """
    from transformers import AutoTokenizer

    if path.startswith(("/", ".", "~")) and not Path(expanded(path)).is_dir():  # no hub id begins so
        raise UsageError(f"model.path={path}: there is no such folder")
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            expanded(path), revision=revision, use_fast=True, trust_remote_code=trust_remote_code
        )
    except Exception as error:
        line = untrusted_code(path, error)
        raise UsageError(line or f"model.path={path}: the tokenizer cannot be loaded: {first_line(error)}") from error
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
    *,
    head_seed: int | None = None,
    trust_remote_code: bool = False,
) -> TransferModel:
    """Loads a pre-trained encoder, decoder or encoder-decoder with its language-model head.

    Models whose checkpoint has none come without it, and so do encoder-decoders that are no translators if the task
    does not use it. No tensor of the result is random but those of a head that is drawn from `head_seed`.

    Args:
        path: local folder or hub id.
        revision: of the hub; None for the newest.
        dtype: of the weights.
        prepare: changes the transformers model before it is split into body and head.
        dropout: probability for hidden states and attention; None for the model's own values.
        head_seed: if the checkpoint of an encoder has no language-model head, one is drawn from this seed; None: the
            task uses no such head.
        trust_remote_code: whether Python code beside the model may be run.
    Raises:
        UsageError: the model cannot be loaded or taken apart, its checkpoint lacks tensors of the model, has others or
            other shapes, a weight is not finite, or `dropout` is given and the model family has none.
    """
    needs_head = head_seed is not None
    try:
        config = load_config(path, revision, trust_remote_code=trust_remote_code)
        if (fault := family_fault(config)) is not None:
            raise UsageError(f"model.path={path}: {fault}")
        if dropout is not None:
            _set_dropout(config, dropout)
        with torch.random.fork_rng(devices=[]):  # transformers draws what a checkpoint lacks
            pretrained, report = _class_for(config, needs_head=needs_head).from_pretrained(
                expanded(path),
                revision=revision,
                dtype=dtype,
                config=config,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # then they are in the report, and refused below
                trust_remote_code=trust_remote_code,
            )
    except UsageError:
        raise
    except Exception as error:
        line = untrusted_code(path, error)
        raise UsageError(line or f"model.path={path}: the model cannot be loaded: {first_line(error)}") from error
    differences = Differences(
        report["missing_keys"], report["unexpected_keys"], [name for name, *_ in report["mismatched_keys"]]
    )
    if wrong := faults(pretrained, differences, needs_head=needs_head):
        raise UsageError(f"model.path={path}: the checkpoint {' and '.join(wrong)}; {_COPY_AGAIN}")
    if not ties_by_checkpoint(config) and (names := tied_apart(pretrained, path)) is not None:
        raise UsageError(
            f"model.path={path}: the checkpoint has different values for {named(names)}, which are one tensor by "
            "config.json; set tie_word_embeddings to false there"
        )
    missing, is_whole = missing_of_head(pretrained, differences)
    if missing and head_seed is not None:
        if not (is_whole and may_draw_head(config)):
            raise UsageError(
                f"model.path={path}: the checkpoint lacks {named(missing)}, of the language-model head, which the "
                f"task uses; {_COPY_AGAIN}"
            )
        draw_head(pretrained, head_seed)
    elif missing:
        pretrained = pretrained.base_model
    if decoder_is_unused(config, needs_head=needs_head) and any(
        name.startswith("decoder.") for name in differences.missing
    ):
        pretrained.decoder = None
    check_finite(pretrained, path)
    prepare(pretrained)
    return take_apart(pretrained, path)


@dataclass(frozen=True)
class CheckpointReport:
    """What the headers of a checkpoint's files say about its use.

    Attributes:
        faults: why the checkpoint cannot be used; a line each.
        draws_head: whether the run draws the language-model head from its seed, because the checkpoint has none.
    """

    faults: tuple[str, ...] = ()
    draws_head: bool = False


def inspect_checkpoint(
    path: str, revision: str | None, config: Any, *, needs_head: bool, trust_remote_code: bool
) -> CheckpointReport:
    """Compares the headers of a checkpoint's files with the model that its config describes.

    If they differ in a way that may be a fault, the model is loaded, because transformers renames and joins the tensors
    of some families. A model of the hub is checked only when it is loaded.

    Args:
        path, revision: of the model.
        config: its transformers config.
        needs_head: whether the task uses the language-model head.
        trust_remote_code: whether Python code beside the model may be run.
    """
    shapes = tensor_shapes(path)
    if shapes is None:
        return CheckpointReport()
    try:
        pretrained = _without_weights(config, path, needs_head=needs_head, trust_remote_code=trust_remote_code)
    except UsageError as error:
        return CheckpointReport(tuple(error.lines))
    except Exception:  # a family that cannot be built without weights, or a wrong config; loading it tells
        return CheckpointReport()
    differences = compare(pretrained, shapes)
    missing, is_whole = missing_of_head(pretrained, differences)
    draws_head = needs_head and is_whole and may_draw_head(config)
    if faults(pretrained, differences, needs_head=needs_head) or (needs_head and missing and not draws_head):
        seed = 0 if needs_head else None
        try:
            with _no_progress_bar():
                load_pretrained(path, revision, torch.bfloat16, head_seed=seed, trust_remote_code=trust_remote_code)
        except UsageError as error:
            return CheckpointReport(tuple(error.lines))
    return CheckpointReport(draws_head=draws_head)


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    """Keeps transformers from drawing a bar while it loads a model."""
    from transformers.utils import logging

    drawn = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if drawn:
            logging.enable_progress_bar()


def _without_weights(config: Any, name: str, *, needs_head: bool, trust_remote_code: bool) -> Any:
    """Builds a transformers model on torch's meta device.

    Raises:
        UsageError: its config asks for more memory beside the weights than any model needs.
    """
    with torch.device("meta"):
        pretrained = _class_for(config, needs_head=needs_head).from_config(config, trust_remote_code=trust_remote_code)
    if (size := sum(buffer.nbytes for buffer in pretrained.buffers())) > _MOST_BUFFER_BYTES:
        raise UsageError(
            f"model.path={name}: config.json asks for tables of {size:.2g} bytes beside the weights, for instance of "
            "positions; no model has such"
        )
    return pretrained


def skeleton(config: Any, name: str, *, needs_head: bool = False, trust_remote_code: bool = False) -> TransferModel:
    """Builds a model without weights, on torch's meta device, to look at its modules and their names.

    Args:
        config: transformers config.
        name: path or hub id, for messages.
        needs_head: whether the task uses the language-model head.
        trust_remote_code: whether Python code beside the model may be run.
    Raises:
        UsageError: its config asks for more memory beside the weights than any model needs.
    """
    pretrained = _without_weights(config, name, needs_head=needs_head, trust_remote_code=trust_remote_code)
    return TransferModel(*split_pretrained(pretrained), "", name)


def _class_for(config: Any, *, needs_head: bool) -> Any:
    """Returns the class of transformers that loads a model for our tasks."""
    from transformers import (
        AutoModel,
        AutoModelForCausalLM,
        AutoModelForMaskedLM,
        AutoModelForSeq2SeqLM,
    )

    kind = architecture(config)
    if kind == ENCODER_DECODER:
        return AutoModel if decoder_is_unused(config, needs_head=needs_head) else AutoModelForSeq2SeqLM
    masked = kind == ENCODER and has_masked_head(config)
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


def lm_head_names(model: TransferModel) -> dict[str, str]:
    """Returns name of each tensor of the language-model head in `model` -> its name in the model of transformers."""
    whole = whole_pretrained(model)
    theirs: dict[int, list[str]] = {}
    for name, parameter in whole.named_parameters(remove_duplicate=False):
        if not name.startswith(f"{whole.base_model_prefix}."):
            theirs.setdefault(id(parameter), []).append(name)
    names = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if name.startswith("lm_head.") and (of_tensor := theirs.get(id(parameter))):
            own = name.removeprefix("lm_head.")
            names[name] = next((one for one in of_tensor if one.endswith(own)), of_tensor[0])
    return names


@cache
def model_identity(path: str, revision: str | None) -> str:
    """Returns the identity of a model for a run's fingerprint: a digest of a local folder, or hub id and revision.

    Raises:
        UsageError: a local folder has no weights.
    """
    folder = Path(expanded(path))
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
    model = TransferModel(backbone, lm_head, base_hash(backbone, lm_head), name)
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
