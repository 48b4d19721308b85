"""What all tests share: no network, one thread, tiny pre-trained models, tiny corpora, and trainers made of them."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # kernels are interpreted; Triton reads it when it is imported

import copy
import functools
import multiprocessing
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from omegaconf import OmegaConf, SCMode
from torch import Tensor
from torch.nn import functional as F

from tests.hub_cache import HubCache
from xlt.compose import compose, hydra_ready
from xlt.config import RandomModelConfig, TrainConfig
from xlt.data.encoding import Encoder
from xlt.data.examples import Example
from xlt.data.mix import LoadedSource
from xlt.data.streams import stream
from xlt.engine.activation import LanguageActivation
from xlt.engine.build import build_method
from xlt.engine.processes import Processes
from xlt.engine.training import Trainer
from xlt.methods.method import Method, Setting
from xlt.models.loading import load_pretrained, load_tokenizer, random_pretrained, save_checkpoint
from xlt.models.transfer import TransferModel
from xlt.models.vocabulary import train_tokenizer
from xlt.modules import ModuleHeader
from xlt.repositories import forget_versions
from xlt.tasks.mlm import MaskedLanguageModelling
from xlt.tasks.tagging import Tagging
from xlt.tasks.task import Task

LABELS = ["verb", "noun", "other"]
RECIPE: dict[str, Any] = {
    "epochs": None,
    "max_steps": 4,
    "min_steps": 0,
    "batch_size": 4,
    "micro_batch_size": None,
    "group_by_length": False,
    "learning_rate": 5e-3,
    "head_learning_rate": None,
    "warmup_fraction": 0.0,
    "weight_decay": 0.0,
    "clip_norm": 1.0,
    "precision": "fp32",
    "evaluate_every_steps": 2,
    "evaluate_every_epochs": None,
    "evaluation_batch_size": 16,
    "averaging": "none",
    "average_last": None,
    "ema_decay": 0.9,
    "save_every_seconds": 1e9,
    "activation_checkpointing": False,
}


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _wandb_keeps_to_itself(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What W&B's client keeps besides a run's own folder lies in the tests' folder, and it reports to nobody."""
    for what in ("CACHE", "CONFIG", "DATA", "ARTIFACT"):
        os.environ[f"WANDB_{what}_DIR"] = str(tmp_path_factory.mktemp(f"wandb-{what.lower()}"))
    os.environ.update(WANDB_MODE="offline", WANDB_ERROR_REPORTING="false")


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubCache]:
    """An empty cache of the hub; there is no network."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    forget_versions()
    yield HubCache(tmp_path / "hub-cache")
    forget_versions()


def sentences(language: str, count: int) -> list[Example]:
    """Made-up sentences of a made-up language: what a word is, its first letter says."""
    draw = random.Random(language)
    vowels = draw.sample("aeiouy", 3)
    kinds = {"verb": draw.sample("bdgk", 2), "noun": draw.sample("mnlr", 2), "other": draw.sample("stvz", 2)}
    examples = []
    for number in range(count):
        tags = tuple(draw.choice(LABELS) for _ in range(draw.randint(1, 6)))
        words = tuple(draw.choice(kinds[tag]) + draw.choice(vowels) + draw.choice("nst") for tag in tags)
        examples.append(Example(f"{language}:{number}", " ".join(words), words, {"upos": tags}))
    return examples


def _tiny_checkpoint(architecture: str, folder: Path) -> Path:
    lines = [str(example.text) for language in ("eng", "deu", "fao") for example in sentences(language, 40)]
    shape = RandomModelConfig(architecture, 2, 32, 2, 64, 48, 300, dropout=0.1)
    tokenizer = train_tokenizer(lines, shape.vocabulary)
    model = random_pretrained(shape, tokenizer, seed=11)
    with torch.no_grad():  # a pre-trained model has no biases of zero
        for number, (_, parameter) in enumerate(model.named_parameters()):
            parameter.add_(torch.randn(parameter.shape, generator=stream(number, "tiny")), alpha=0.02)
    save_checkpoint(model, tokenizer, folder)
    return folder


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder: BERT of 2 layers x 32 with a byte-level BPE tokenizer of 300 entries."""
    return _tiny_checkpoint("bert", tmp_path_factory.mktemp("checkpoints") / "tiny-bert")


@pytest.fixture(scope="session")
def tiny_xlm_r(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of XLM-R's type."""
    return _tiny_checkpoint("xlm-roberta", tmp_path_factory.mktemp("checkpoints") / "tiny-xlm-r")


@pytest.fixture(scope="session")
def encoder(tiny_bert: Path) -> Encoder:
    return Encoder(load_tokenizer(str(tiny_bert)))


@pytest.fixture(scope="session")
def _base(tiny_bert: Path) -> TransferModel:
    return load_pretrained(str(tiny_bert))


class WideTagging(Tagging):
    """Tagging whose loss has the model's dtype, so that a float64 model trains in float64 throughout."""

    def loss(self, model: TransferModel, batch: Mapping[str, Tensor]) -> Tensor:
        return F.cross_entropy(*self._logits(model, batch), reduction="sum")


class WideMlm(MaskedLanguageModelling):
    """The same of masked language modelling."""

    def loss(self, model: TransferModel, batch: Mapping[str, Tensor]) -> Tensor:
        hidden, labels = self._labelled(model, batch)
        return F.cross_entropy(model.language_model_logits(hidden), labels, reduction="sum")


class Cloze(WideMlm):
    """The same as a task of its own, which leaves a task module: instruction tuning of an encoder, so to say."""

    name = "cloze"
    adapts_language = False


@pytest.fixture(scope="session")
def make_task() -> Callable[..., Task]:
    """`make_task("tagging" | "mlm" | "cloze")`, without dropout in the head unless asked for."""

    def make(kind: str, dropout: float = 0.0) -> Task:
        if kind != "tagging":
            return {"mlm": WideMlm, "cloze": Cloze}[kind](max_length=32, masked_share=0.3, packing=False)
        return WideTagging("pos", "upos", LABELS, max_length=32, dropout=dropout, metric="accuracy")

    return make


@pytest.fixture(scope="session")
def make_model(_base: TransferModel) -> Callable[..., TransferModel]:
    """`make_model(task)`: the tiny pre-trained model with the task's head, the same at every call."""

    def make(task: Task, *, dropout: float = 0.0, dtype: torch.dtype = torch.float32, seed: int = 1) -> TransferModel:
        model = copy.deepcopy(_base)
        if not task.needs_lm_head:
            model.lm_head = None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model.head = task.head(model.hidden_size)
        for module in model.backbone.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = dropout
            if hasattr(module, "dropout_prob"):
                module.dropout_prob = dropout
        return model.to(dtype)

    return make


@pytest.fixture(scope="session")
def make_source(encoder: Encoder) -> Callable[..., LoadedSource]:
    """`make_source(task, "eng", examples=14)`."""

    def make(task: Task, language: str, examples: int = 14, name: str | None = None, upsample: int = 1) -> LoadedSource:
        return LoadedSource(name or language, language, task.features(sentences(language, examples), encoder), upsample)

    return make


@pytest.fixture(scope="session")
def make_method() -> Callable[..., Method]:
    """`make_method("lt_sft", "method.l1=0.1")`: as `conf/method` has it, density 0.05 unless said otherwise.

    The dense phase of LT-SFT has three steps, at the rate of the other. SpIEL exchanges entries after three steps, so
    that runs of a few steps see it. LoRA has no dropout.
    """
    spiel = ("method.density=0.05", "method.update_interval=3", "method.estimation_steps=2")
    often = {
        "lt_sft": ("method.density=0.05", "method.dense_max_steps=3", "method.dense_learning_rate=null"),
        "random_sft": ("method.density=0.05",),
        "spiel_ag": spiel,
        "spiel_ma": spiel,
        "lora": ("method.rank=2", "method.dropout=0.0"),
    }

    @functools.cache
    def config(overrides: tuple[str, ...]) -> Any:
        with hydra_ready():
            composed = compose(overrides)
        return OmegaConf.to_container(composed.method, resolve=True, structured_config_mode=SCMode.INSTANTIATE)

    return lambda name, *overrides: build_method(config((f"method={name}", *often.get(name, ()), *overrides)))


@pytest.fixture(scope="session")
def make_trainer(
    make_task: Callable[..., Task],
    make_model: Callable[..., TransferModel],
    make_source: Callable[..., LoadedSource],
    encoder: Encoder,
) -> Callable[..., Trainer]:
    """A trainer of a tiny model on a tiny corpus, built anew at every call, always the same for the same arguments.

    `dense_max_steps` and its like are given to the method, if it has a dense phase.
    """

    def make(
        method: Method,
        kind: str = "tagging",
        *,
        languages: Sequence[str] = ("eng",),
        modules: Mapping[str, Any] | None = None,
        dropout: float = 0.0,
        dtype: torch.dtype = torch.float32,
        seed: int = 1,
        examples: int = 14,
        processes: Processes = Processes(),  # noqa: B008
        **recipe: Any,
    ) -> Trainer:
        for name in [name for name in recipe if name.startswith("dense_")]:
            value = recipe.pop(name)
            if hasattr(method, name):
                setattr(method, name, value)
        task = make_task(kind, dropout)
        model = make_model(task, dropout=dropout, dtype=dtype)
        sources = [make_source(task, language, examples) for language in languages]
        return Trainer(
            model=model,
            method=method,
            task=task,
            encoder=encoder,
            sources=sources,
            validation=[make_source(task, language, 6, f"{language}-dev") for language in languages],
            activation=LanguageActivation(model, modules or {}, list(languages)),
            recipe=TrainConfig(**{**RECIPE, **recipe}),
            setting=Setting(task.adapts_language, lambda *name: stream(seed, "method", *name)),
            seed=seed,
            processes=processes,
        )

    return make


class Killed(BaseException):
    """Stands for `kill -9`: nothing in the code catches it."""


class Records:
    """A watcher that keeps all records, rewinds as the metrics file does, and can kill the run after any record.

    Args:
        kill_at: the run dies when it has written this many records in this sitting.
        at: called before every record with phase and step.
    """

    def __init__(
        self,
        kept: list[tuple[str, int, dict[str, float]]] | None = None,
        kill_at: int | None = None,
        at: Callable[[str, int], None] | None = None,
    ) -> None:
        self.kept = kept if kept is not None else []
        self._kill_at, self._at, self._here = kill_at, at, 0

    def begin_phase(self, name: str, start: int, steps: int) -> None: ...

    def metrics(self, phase: str, step: int, values: Mapping[str, float]) -> None:
        if self._at is not None:
            self._at(phase, step)
        self.kept.append((phase, step, dict(values)))
        self._here += 1
        if self._here == self._kill_at:
            raise Killed

    def note(self, message: str) -> None: ...

    def rewind(self, lines: int) -> None:
        del self.kept[lines:]

    def written(self) -> int:
        return len(self.kept)

    def trained(self) -> None: ...

    def evaluated(self, records: Mapping[str, Mapping[str, Any]]) -> None: ...

    def close(self) -> None: ...


@pytest.fixture(scope="session")
def records() -> type[Records]:
    return Records


@pytest.fixture(scope="session")
def killed() -> type[BaseException]:
    return Killed


@pytest.fixture(scope="session")
def in_two_processes() -> Callable[[Callable[[Processes], Any], Path], list[Any]]:
    """`in_two_processes(work, folder)` runs `work` in two forked processes joined by gloo; what each returned.

    Nobody waits for ever: a process that fails takes the other along.
    """

    def run(work: Callable[[Processes], Any], folder: Path) -> list[Any]:
        folder.mkdir(parents=True, exist_ok=True)

        def child(rank: int) -> None:
            dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
            torch.save(work(Processes(rank, 2)), folder / f"rank-{rank}.pt")
            os._exit(0)  # nothing that the parent had open is ours to close

        context = multiprocessing.get_context("fork")
        children = [context.Process(target=child, args=(rank,), daemon=True) for rank in (0, 1)]
        for process in children:
            process.start()
        deadline = time.monotonic() + 60
        while any(process.exitcode is None for process in children):
            if any(process.exitcode for process in children) or time.monotonic() > deadline:
                break
            time.sleep(0.01)
        codes = [process.exitcode for process in children]
        for process in children:
            process.kill()
            process.join()
        assert codes == [0, 0]
        return [torch.load(folder / f"rank-{rank}.pt") for rank in (0, 1)]

    return run


@pytest.fixture(scope="session")
def module_header() -> Callable[..., ModuleHeader]:
    def make(**changes: Any) -> ModuleHeader:
        values = {"kind": "sparse_delta", "method": "lt_sft", "base_model": "tiny", "base_hash": "b1"}
        return ModuleHeader(**{**values, **changes})

    return make


@pytest.fixture(scope="session")
def bits() -> Callable[[Mapping[str, Tensor]], dict[str, bytes]]:
    """Name -> the bytes of a tensor: equality of bits, NaN and signed zeros included."""
    return lambda tensors: {name: tensor.detach().contiguous().numpy().tobytes() for name, tensor in tensors.items()}
