"""What `bench_adapters.py` compares: adapters of this project, of the `adapters` library, and the floor below both."""

from __future__ import annotations

import itertools
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from adapters_library import parameter_pairs
from benchmark.shapes import ENCODERS, bert_config
from omegaconf import OmegaConf, SCMode
from torch import Tensor, nn
from torch.nn import functional
from transformers import BertConfig, BertForMaskedLM, BertForTokenClassification

from xlt.compose import compose, hydra_ready
from xlt.data.streams import stream
from xlt.data.typology import FEATURES
from xlt.engine.build import build_method
from xlt.methods.method import Method, Phase, Setting
from xlt.models.sublayers import find_blocks
from xlt.models.transfer import TransferModel, split_pretrained
from xlt.modules import ModuleHeader
from xlt.modules.adapter import Adapter
from xlt.modules.insertion import change_input
from xlt.tasks.mlm import MaskedLanguageModelling
from xlt.tasks.tagging import Tagging
from xlt.tasks.task import Task

LANGUAGES = ("eng", "deu", "fin", "tur")  # of MAD-G, one after another, a step each
LANGUAGE_REDUCTION = 2
PEERS = ("adapters", "all_logits")  # contenders that need the library
_LABELS = [str(number) for number in range(17)]  # as many as universal parts of speech
_MASKED = 0.15
_RATE, _DECAY = 1e-4, 0.0
# Relative; float32, equal terms summed in another order through up to 12 layers.
_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Case:
    """What is trained, and the contenders that are compared on it.

    Attributes:
        language: whether the adapter is a language's, with an invertible one, trained on masked-language modelling;
            otherwise it is a tagger's.
        over_language: whether a tagger's adapter stands on a frozen language adapter.
    """

    title: str
    contenders: tuple[str, ...]
    reduction_factor: int = LANGUAGE_REDUCTION
    language: bool = True
    over_language: bool = False


_OURS = ("floor", "xlt")
_TASK: dict[str, Any] = {"contenders": (*_OURS, "adapters"), "reduction_factor": 16, "language": False}
CASES = {
    "language": Case("language adapter, reduction factor 2, and invertible one; MLM", (*_OURS, *PEERS)),
    "stacked": Case("task adapter, 16, over a frozen language adapter; tagging", over_language=True, **_TASK),
    "task": Case("task adapter, 16, alone; tagging", **_TASK),
    "mad_g": Case("MAD-G's generator beside a language adapter, both 2; MLM", (*_OURS, "mad_g")),
}


@dataclass(frozen=True)
class Setup:
    """What all contenders share.

    Attributes:
        size: a key of `ENCODERS`.
        leave_out_last: blocks at the top without adapters.
    """

    size: str
    batch: int
    tokens: int
    leave_out_last: int
    device: str
    precision: str

    def config(self, vocabulary: int | None = None) -> BertConfig:
        return bert_config(self.size, vocab_size=vocabulary or ENCODERS[self.size].vocabulary, num_labels=len(_LABELS))

    def features(self, case: Case) -> dict[str, Tensor]:
        """(batch, tokens) random ids and labels: at `_MASKED` of the positions for a language, at all for a task."""
        generator, shape = torch.Generator().manual_seed(0), (self.batch, self.tokens)
        ids = torch.randint(5, ENCODERS[self.size].vocabulary, shape, generator=generator)
        labels = torch.randint(len(_LABELS), shape, generator=generator)
        if case.language:
            labels = torch.full(shape, -100)
            chosen = torch.randperm(ids.numel(), generator=generator)[: max(round(_MASKED * ids.numel()), 1)]
            labels.view(-1)[chosen] = ids.view(-1)[chosen]
        features = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
        return {name: tensor.to(self.device) for name, tensor in features.items()}


@dataclass
class Contender:
    """A model with its adapters, and one batch to train on.

    Attributes:
        trained: the parameters that AdamW updates; none for the floor.
        logits: returns the logits, (targets, classes).
        loss: returns the mean over the targets.
        prepare: does what the engine has a method do before the loss.
        modules: returns our modules, by the name of the library's adapter that gets the same weights.
    """

    model: nn.Module
    trained: list[nn.Parameter]
    logits: Callable[[], Tensor]
    loss: Callable[[], Tensor]
    setup: Setup
    prepare: Callable[[], None] = lambda: None
    modules: Callable[[], Mapping[str, Adapter]] = dict

    def __post_init__(self) -> None:
        self.model.train()
        self.parameters = sum(parameter.numel() for parameter in self.trained)
        self._optimizer = None
        if self.trained:
            self._optimizer = torch.optim.AdamW(self.trained, lr=_RATE, weight_decay=_DECAY, fused=True)

    def step(self) -> None:
        """Forward pass, backward pass and update."""
        self.prepare()
        with torch.autocast(self.setup.device, torch.bfloat16, enabled=self.setup.precision == "bf16"):
            loss = self.loss()
        loss.backward()
        if self._optimizer is not None:
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)


def build(setup: Setup, case: Case, name: str) -> Contender:
    """A contender by its name in the case."""
    if name in PEERS:
        return library_adapter(setup, case, everywhere=name == "all_logits")
    return (
        frozen_model(setup, case) if name == "floor" else our_adapter(setup, case, "mad_x" if name == "xlt" else name)
    )


def our_adapter(setup: Setup, case: Case, method_name: str) -> Contender:
    """Our method on our model; of its hooks, those that do something here are called as the engine calls them."""
    task, model, batch = task_of(case), transfer_model(setup, case), setup.features(case)
    below = language_module(setup) if case.over_language else None
    if below is not None:
        below.apply(model)
    method = attach_method(setup, method_name, case.reduction_factor, model, case.language)
    targets, turns = task.targets(batch), itertools.cycle(LANGUAGES)

    def prepare() -> None:
        method.language(next(turns))
        method.write()

    def loss() -> Tensor:
        return method.loss(model, batch, task.loss) / targets

    def modules() -> dict[str, Adapter]:
        own = method.export(model, module_header(case.language))
        assert isinstance(own, Adapter)
        return {"language" if case.language else "task": own} | ({} if below is None else {"language": below})

    trained = list(method.trainable().values())
    return Contender(model, trained, lambda: logits_of(model, batch), loss, setup, prepare, modules)


def frozen_model(setup: Setup, case: Case) -> Contender:
    """Our model, frozen, without adapters: gradients flow down to the place of the lowest trained adapter."""
    task, model, batch = task_of(case), transfer_model(setup, case), setup.features(case)
    model.requires_grad_(False)
    lowest, modules = find_blocks(model)[0], dict(model.named_modules())
    if case.language:
        change_input(modules[lowest.path], lambda hidden: hidden.detach().requires_grad_())
    else:
        assert lowest.norm is not None
        modules[lowest.norm].register_forward_hook(lambda *call: call[-1].detach().requires_grad_())
    targets = task.targets(batch)
    return Contender(model, [], lambda: logits_of(model, batch), lambda: task.loss(model, batch) / targets, setup)


def library_adapter(setup: Setup, case: Case, everywhere: bool) -> Contender:
    """The library's adapters in transformers' own model.

    Args:
        everywhere: whether the loss is that of the model's own forward pass with labels, which computes
            language-model logits at all positions.
    """
    import adapters
    from adapters import SeqBnConfig, SeqBnInvConfig
    from adapters.composition import Stack

    torch.manual_seed(0)
    model: Any = (BertForMaskedLM if case.language else BertForTokenClassification)(setup.config())
    adapters.init(model)
    layers = ENCODERS[setup.size].layers
    left_out = list(range(layers - setup.leave_out_last, layers))
    if case.language or case.over_language:
        model.add_adapter("language", SeqBnInvConfig(reduction_factor=LANGUAGE_REDUCTION, leave_out=left_out))
    if not case.language:
        model.add_adapter("task", SeqBnConfig(reduction_factor=case.reduction_factor, leave_out=left_out))
    own = "language" if case.language else "task"
    model.train_adapter(own)
    model.set_active_adapters(Stack("language", "task") if case.over_language else own)
    if case.language:
        model.cls.requires_grad_(False)  # train_adapter freezes no head
        inverse = model.base_model.invertible_adapters["language"]

        def invert(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
            (hidden,) = inputs
            return (inverse(hidden.reshape(1, -1, hidden.shape[-1]), rev=True).view_as(hidden),)

        model.get_output_embeddings().register_forward_pre_hook(invert)
    model.to(setup.device)
    batch = setup.features(case)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    labelled = batch["labels"] != -100
    targets = batch["labels"][labelled]

    def logits() -> Tensor:
        if everywhere or not case.language:
            return model(**inputs).logits[labelled]
        return model.cls(model.base_model(**inputs).last_hidden_state[labelled])

    def loss() -> Tensor:
        return model(**batch).loss if everywhere else functional.cross_entropy(logits().float(), targets)

    return Contender(model, [p for p in model.parameters() if p.requires_grad], logits, loss, setup)


def task_of(case: Case) -> Task:
    if case.language:
        return MaskedLanguageModelling(max_length=512, masked_share=_MASKED, packing=False)
    return Tagging("pos", "upos", _LABELS, max_length=512, dropout=0.1, metric="accuracy")


def transfer_model(setup: Setup, case: Case, vocabulary: int | None = None) -> TransferModel:
    """A random model with the case's head; `vocabulary`: tokens, if not as many as the size has."""
    torch.manual_seed(0)
    model = TransferModel(*split_pretrained(BertForMaskedLM(setup.config(vocabulary))), "random", setup.size)
    if not case.language:
        model.lm_head, model.head = None, task_of(case).head(model.hidden_size)
    return model.to(setup.device)


def attach_method(
    setup: Setup, name: str, reduction_factor: int, model: TransferModel, adapts_language: bool
) -> Method:
    """The method as conf/method has it, attached to a model.

    Its up-projections are not zero, as they would be by default: otherwise the adapters would change nothing, and
    agreement with the library would prove little.
    """
    overrides = [f"method={name}", f"method.reduction_factor={reduction_factor}"]
    overrides.append(f"method.leave_out_last={setup.leave_out_last}")
    with tempfile.TemporaryDirectory() as folder:
        if name == "mad_g":  # the vectors are as long as URIEL's; their values do not affect the time
            table, shape = Path(folder) / "vectors.npz", (len(LANGUAGES), FEATURES)
            data = np.random.default_rng(0).integers(0, 2, shape)
            np.savez(table, langs=list(LANGUAGES), features=[f"S_{column:03}" for column in range(FEATURES)], data=data)
            overrides.append(f"method.typology={table}")
        else:
            overrides.append("method.initialisation=normal")
        with hydra_ready():
            config = compose(overrides).method
        method = build_method(OmegaConf.to_container(config, resolve=True, structured_config_mode=SCMode.INSTANTIATE))
        setting = Setting(adapts_language, lambda *names: stream(0, *names), languages=LANGUAGES)
        method.attach(model, Phase("train", 1, _RATE), setting)
    return method


def language_module(setup: Setup) -> Adapter:
    """A language module. It is made on a model with a small vocabulary, which its adapters do not depend on."""
    model = transfer_model(setup, CASES["language"], vocabulary=100)
    module = attach_method(setup, "mad_x", LANGUAGE_REDUCTION, model, adapts_language=True).export(
        model, module_header(True)
    )
    assert isinstance(module, Adapter)
    return module


def module_header(of_language: bool) -> ModuleHeader:
    """The header of a language's module, or of a tagger's."""
    language, task = (LANGUAGES[0], None) if of_language else (None, "pos")
    return ModuleHeader(
        kind="adapter", method="mad_x", base_model="random", base_hash="random", language=language, task=task
    )


def logits_of(model: TransferModel, batch: Mapping[str, Tensor]) -> Tensor:
    """(targets, classes) logits at the labelled positions."""
    hidden = model.encode(batch["input_ids"], batch["attention_mask"])[batch["labels"] != -100]
    return model.language_model_logits(hidden) if model.head is None else model.head(hidden)


def agree(ours: Contender, peer: Contender) -> dict[str, float]:
    """Copies our weights to the library's model and compares the two, without dropout, in float32.

    Returns:
        Relative differences of logits (to the largest), loss and norm of the gradient.
    Raises:
        SystemExit: the two do not compute the same.
    """
    with torch.no_grad():
        for prefix, part in (("bert.", ours.model.backbone), ("cls.", ours.model.lm_head), ("", ours.model.head)):
            for name, parameter in part.named_parameters() if isinstance(part, nn.Module) else ():
                peer.model.get_parameter(f"{prefix}{name}").copy_(parameter)
        for name, module in ours.modules().items():
            for our_parameter, their_parameter in parameter_pairs(peer.model, module, name):
                their_parameter.copy_(our_parameter)
    (logits, *numbers), (their_logits, *their_numbers) = _outputs(ours), _outputs(peer)
    differences = [float((logits - their_logits).abs().max() / logits.abs().max())]
    differences += [abs(b / a - 1) for a, b in zip(numbers, their_numbers, strict=True)]
    if not all(difference <= _TOLERANCE for difference in differences) or ours.parameters != peer.parameters:
        counts = f"{ours.parameters} and {peer.parameters} trained parameters"
        sys.exit(f"the two differ: logits, loss and norm of the gradient by {differences}, {counts}")
    return dict(zip(("logits", "loss", "gradient_norm"), differences, strict=True))


def _outputs(contender: Contender) -> tuple[Tensor, float, float]:
    """Logits, loss and norm of the gradient."""
    contender.model.eval()
    loss = contender.loss()
    gradients = torch.autograd.grad(loss, contender.trained)
    with torch.no_grad():
        logits = contender.logits()
    contender.model.train()
    return logits, float(loss), float(torch.stack([gradient.norm() for gradient in gradients]).norm())
