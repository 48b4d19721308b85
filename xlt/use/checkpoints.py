"""Merges a base model and modules into a checkpoint of transformers, with the head class that `pipeline` looks for.

The logits of the checkpoint are compared with those of the task's own head before anything is written, so that what
transformers computes otherwise is refused and never written.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from xlt.errors import UsageError
from xlt.files import atomic_folder
from xlt.models.families import ties_by_checkpoint
from xlt.models.loading import whole_pretrained
from xlt.models.vocabulary_reduction import save_tokenizer
from xlt.modules.adapter import Adapter
from xlt.modules.generator import Generator
from xlt.tasks.classification import ClassificationHead
from xlt.tasks.generation import greedy_settings
from xlt.tasks.multiple_choice import ChoiceHead
from xlt.tasks.question_answering import SpanHead
from xlt.tasks.tagging import TaggingHead
from xlt.use.loading import LoadedModel

_TINY = 2.0**-14
"""Factor by which a hidden state is scaled before a tanh that must not change it; the error is below 3e-7 of it."""


def export_checkpoint(loaded: LoadedModel, language: str | None, folder: Path) -> str:
    """Writes base model, modules and head as a checkpoint of transformers, with the tokenizer.

    Args:
        loaded: the model.
        language: of the language module that is merged, too; None: none is.
        folder: an empty or new folder.
    Returns:
        The name of the checkpoint's class.
    Raises:
        UsageError: transformers has no class that computes what the task's head computes.
        ValueError: a module adds layers, which cannot be merged into weights.
    """
    refuse_layers(loaded)
    loaded.speak(language)
    pretrained = with_task_head(loaded) if loaded.task.has_head else _whole(loaded)
    if getattr(pretrained.config, "languages", None) is not None and language is not None:
        pretrained.config.default_language = loaded.model.backbone.config.default_language  # type: ignore[union-attr]
    pretrained.config.architectures = [type(pretrained).__name__]
    tokenizer = copy.deepcopy(loaded.encoder.tokenizer)
    tokenizer.model_max_length = loaded.task.max_length
    if tokenizer.pad_token_id is not None and getattr(pretrained.config, "pad_token_id", None) is None:
        pretrained.config.pad_token_id = tokenizer.pad_token_id
    if not loaded.task.has_head and pretrained.can_generate():
        _set_generation(loaded, pretrained, tokenizer)
    with atomic_folder(folder) as temporary:
        pretrained.save_pretrained(temporary)
        save_tokenizer(tokenizer, temporary)
    return type(pretrained).__name__


def _set_generation(loaded: LoadedModel, pretrained: Any, tokenizer: Any) -> None:
    """Makes `generate` of a checkpoint that writes texts search as the task does, and gives it the task's template."""
    task = loaded.task
    if not task.translates:
        pretrained.generation_config = greedy_settings(pretrained.generation_config)
    settings = pretrained.generation_config
    settings.do_sample = False
    settings.num_beams = getattr(task, "beams", 1)
    settings.max_new_tokens = task.max_length if task.translates else getattr(task, "most_new_tokens", None)
    settings.max_length = None
    if tokenizer.pad_token_id is not None and settings.pad_token_id is None:
        settings.pad_token_id = tokenizer.pad_token_id
    if (template := task.chat_template()) is not None:
        # What `generate` gets of a chat template has no special tokens but those of the template itself.
        tokenizer.chat_template = "".join(tokenizer.convert_ids_to_tokens(loaded.encoder.prefix)) + template


def refuse_layers(loaded: LoadedModel) -> None:
    """Refuses modules that add layers to the model.

    Raises:
        UsageError: there are such modules; the message names one.
    """
    for used in (*loaded.modules.tasks, *loaded.modules.languages.values()):
        if isinstance(used.module, (Adapter, Generator)):
            raise UsageError(
                f"{used.path}: {used.module.header} adds layers to the model, which cannot be merged into its weights; "
                "xlt import writes adapters in AdapterHub's format"
            )


def _whole(loaded: LoadedModel) -> Any:
    """Returns the pre-trained model with its language-model head, which may have become untied."""
    pretrained = whole_pretrained(loaded.model)
    if loaded.model.is_untied and not ties_by_checkpoint(pretrained.config):
        pretrained.config.tie_word_embeddings = False
    return pretrained


@torch.no_grad()
def with_task_head(loaded: LoadedModel) -> Any:
    """Returns a model of the class of transformers for the task, with the weights of body and head as they are now.

    Raises:
        UsageError: transformers has no class that computes what the task's head computes.
    """
    model, task = loaded.model, loaded.task
    head = task.head_of(model)
    kinds = {
        TaggingHead: ("AutoModelForTokenClassification", _fill_token_classifier),
        ClassificationHead: ("AutoModelForSequenceClassification", _fill_text_classifier),
        SpanHead: ("AutoModelForQuestionAnswering", _fill_spans),
        ChoiceHead: ("AutoModelForMultipleChoice", _fill_choice),
    }
    if type(head) not in kinds:
        raise UsageError(f"task {task.name}: transformers has no class with its head, so there is no such checkpoint")
    name, fill = kinds[type(head)]
    config = copy.deepcopy(whole_pretrained(model).config)
    if task.labels():
        config.id2label = dict(enumerate(task.labels()))
        config.label2id = {label: number for number, label in enumerate(task.labels())}
    pretrained = _empty(name, config)
    base = pretrained.base_model
    missing, unexpected = base.load_state_dict(model.backbone.state_dict(), strict=False)
    if unexpected or any(not key.startswith("pooler.") for key in missing):
        raise _unfit(task.name, pretrained, "its body has other tensors")
    pretrained.to(model.device, dtype=next(model.parameters()).dtype).eval()
    if not fill(pretrained, base, head):
        raise _unfit(task.name, pretrained, "its head has other layers than that of the task")
    _compare(loaded, pretrained)
    return pretrained


def _empty(name: str, config: Any) -> Any:
    import transformers

    try:
        with torch.random.fork_rng(devices=[]):
            return getattr(transformers, name).from_config(config)
    except ValueError as error:  # transformers has no such class for this type of models
        raise UsageError(
            f"transformers has no {name.removeprefix('Auto')} for models of type {config.model_type}, so there is no "
            "such checkpoint"
        ) from error


def _unfit(task: str, pretrained: Any, fault: str) -> UsageError:
    return UsageError(
        f"task {task}: {type(pretrained).__name__} of transformers computes something else ({fault}), so there is no "
        "such checkpoint; use xlt predict"
    )


def _linear(module: nn.Module | None, like: nn.Linear) -> nn.Linear | None:
    """Returns a module if it is a linear layer of the shape of another one."""
    return module if isinstance(module, nn.Linear) and module.weight.shape == like.weight.shape else None


def _copy(target: nn.Linear, source: nn.Linear) -> bool:
    target.weight.copy_(source.weight)
    if target.bias is None:
        return source.bias is None or not bool(source.bias.any())
    target.bias.copy_(source.bias)
    return True


def _own_linear(pretrained: Any, base: nn.Module, like: nn.Linear) -> nn.Linear | None:
    """Returns the only layer of a head that has a certain shape; None if there is another layer with parameters."""
    heads = [module for _, module in pretrained.named_children() if module is not base]
    layers = [part for head in heads for part in head.modules() if [*part.parameters(recurse=False)]]
    return _linear(layers[0], like) if len(layers) == 1 else None


def _fill_token_classifier(pretrained: Any, base: nn.Module, head: Any) -> bool:
    layer = _own_linear(pretrained, base, head.classifier)
    return layer is not None and _copy(layer, head.classifier)


_fill_spans: Callable[[Any, nn.Module, Any], bool] = _fill_token_classifier


def _fill_text_classifier(pretrained: Any, base: nn.Module, head: Any) -> bool:
    own = getattr(pretrained, "classifier", None)
    dense, out = (
        _linear(getattr(own, "dense", None), head.dense),
        _linear(getattr(own, "out_proj", None), head.classifier),
    )
    if dense is None or out is None:
        dense = _linear(getattr(getattr(base, "pooler", None), "dense", None), head.dense)
        out = _own_linear(pretrained, base, head.classifier)
    if dense is None or out is None:
        return False
    return _copy(dense, head.dense) and _copy(out, head.classifier)


def _fill_choice(pretrained: Any, base: nn.Module, head: Any) -> bool:
    """Fills a head of pooler (dense, tanh) and linear layer so that the pooler changes nothing but rounding."""
    dense = getattr(getattr(base, "pooler", None), "dense", None)
    out = _own_linear(pretrained, base, head.scorer)
    if out is None or not isinstance(dense, nn.Linear):
        return False
    dense.weight.copy_(torch.eye(len(dense.weight)) * _TINY)
    dense.bias.zero_()
    out.weight.copy_(head.scorer.weight / _TINY)
    out.bias.copy_(head.scorer.bias)
    return True


def _compare(loaded: LoadedModel, pretrained: Any) -> None:
    """Compares the logits of the checkpoint with those of the task's head, on two texts of different lengths.

    Raises:
        UsageError: they differ by more than rounding.
    """
    model, device = loaded.model, loaded.model.device
    first = max(model.vocabulary // 2 - 40, 0)
    ids = torch.stack([torch.arange(first, first + 12), torch.arange(first + 12, first + 24)]).to(device)
    mask = torch.ones_like(ids)
    mask[1, 8:] = 0
    hidden = model.encode(ids, mask)
    ours = _own_logits(model, hidden, mask)
    many = isinstance(model.head, ChoiceHead)
    output = pretrained(input_ids=ids[None] if many else ids, attention_mask=mask[None] if many else mask)
    theirs = _their_logits(output, model.head, mask)
    tolerance = max(1e-5, 50 * torch.finfo(hidden.dtype).eps) * float(ours.float().abs().max())
    if ours.shape != theirs.shape or not torch.allclose(ours.float(), theirs.float(), rtol=0, atol=tolerance):
        raise _unfit(loaded.task.name, pretrained, "its logits differ")


def _own_logits(model: Any, hidden: Tensor, mask: Tensor) -> Tensor:
    if isinstance(model.head, (ClassificationHead, ChoiceHead)):
        rows = torch.arange(len(hidden), device=hidden.device)
        return model.head(hidden[rows, model.whole_text(mask)])
    return model.head(hidden)[mask.bool()]


def _their_logits(output: Any, head: nn.Module | None, mask: Tensor) -> Tensor:
    if isinstance(head, SpanHead):
        return torch.stack([output.start_logits, output.end_logits], -1)[mask.bool()]
    if isinstance(head, TaggingHead):
        return output.logits[mask.bool()]
    return output.logits[0] if isinstance(head, ChoiceHead) else output.logits
