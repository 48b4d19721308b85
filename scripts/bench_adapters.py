"""Step time and peak memory of our bottleneck adapters beside the `adapters` library's, and what a generator costs.

    python scripts/bench_adapters.py --size mbert --output bench_adapters.json   # adapters: an environment of its own
    python scripts/bench_adapters.py --size small                                # anywhere: does it run?

Models have random weights, the same on both sides, and train on one batch without padding. A step is forward pass,
backward pass and AdamW (fused) over what is trained; clipping, collation and schedule are in none. Before anything is
timed, logits, loss, norm of the gradient and number of trained parameters of both sides must agree. Steps are timed in
turn (A B C, B C A, ...), each round in a fresh process; a ratio is the median over all turns of the ratio within the
turn. Memory is measured in a process for each system: the resident set's high-water mark (Linux), on a GPU what torch
allocated; "grown" is above what was there when the first of two steps began.

What limits a step: frozen layers of P parameters cost 2 P operations a token forward and 2 P backward to their input,
whatever is trained below them. That is the row `floor`: the frozen model's own two passes down to the lowest trained
adapter (to the embeddings' output for a language, to the first block's output for a task), measured in the same turns.
An adapter of A parameters adds 6 A operations a token where it is trained, 4 A where it is frozen, and one more pass of
the block's layer normalisation, which is bytes alone. The column `ops` is the operations of matrix products (those of
attention left out) relative to the floor's, which `x floor` would be if nothing but they took time. AdamW moves 28
bytes a trained parameter, little beside that. But MAD-G's generator has about 32 times its adapters' parameters and is
multiplied with a vector, no product to count: about 44 bytes a parameter and step, which limits it on a CPU. (It has no
invertible adapter, so its backward pass ends a block earlier than the floor's.) On a GPU small batches are limited by
the launching of kernels.

Language-model logits are computed at the predicted positions on both sides. The library's users get them from
transformers' own forward pass, everywhere: the row `all_logits`. The inverse of the invertible adapter, which the
library applies in its own heads only, is put before transformers' decoder.
"""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import importlib.util
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_training import SIZES, high_water_mark, reset_high_water_mark
from omegaconf import OmegaConf, SCMode
from parity_adapters import parameter_pairs
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode
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
from xlt.modules.generator import Generator
from xlt.modules.insertion import change_input
from xlt.tasks.mlm import MaskedLanguageModelling
from xlt.tasks.tagging import Tagging
from xlt.tasks.task import Task

LANGUAGES = ("eng", "deu", "fin", "tur")  # MAD-G's, a step each
_LABELS = [str(number) for number in range(17)]  # as many as universal parts of speech
_MASKED = 0.15
_RATE, _DECAY = 1e-4, 0.0
_WARM_UP = 2
# Relative; float32, equal terms summed in another order through up to 12 layers.
_TOLERANCE = 1e-4
# Tensors of this size and more are given back when they are freed, so that the high-water mark is the tensors' own and
# not what the allocator keeps; glibc would raise this limit as it goes.
_GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "131072"}
_LANGUAGE_REDUCTION = 2


@dataclass(frozen=True)
class Case:
    """What is trained and who is compared: adapters for a language (with an invertible one) or for a task."""

    title: str
    systems: tuple[str, ...]
    reduction_factor: int = _LANGUAGE_REDUCTION
    language: bool = True
    over_language: bool = False


_OURS = ("floor", "xlt")
_PEERS = ("adapters", "all_logits")
_TASK: dict[str, Any] = {"systems": (*_OURS, "adapters"), "reduction_factor": 16, "language": False}
CASES = {
    "language": Case("language adapter, reduction factor 2, and invertible one; MLM", (*_OURS, *_PEERS)),
    "stacked": Case("task adapter, 16, over a frozen language adapter; tagging", over_language=True, **_TASK),
    "task": Case("task adapter, 16, alone; tagging", **_TASK),
    "mad_g": Case("MAD-G's generator beside a language adapter, both 2; MLM", (*_OURS, "mad_g")),
}


@dataclass(frozen=True)
class Setup:
    """What all systems share: model size (a key of `SIZES`), batch, blocks left out at the top, arithmetic."""

    size: str
    batch: int
    tokens: int
    leave_out_last: int
    device: torch.device
    precision: str

    def config(self, vocabulary: int | None = None) -> BertConfig:
        shape = dict(SIZES[self.size], intermediate_size=4 * int(SIZES[self.size]["hidden_size"]))
        return BertConfig(**shape | ({} if vocabulary is None else {"vocab_size": vocabulary}), num_labels=len(_LABELS))

    def features(self, case: Case) -> dict[str, Tensor]:
        """(batch, tokens) random ids and labels: at `_MASKED` of the positions for a language, at all for a task."""
        generator, shape = torch.Generator().manual_seed(0), (self.batch, self.tokens)
        ids = torch.randint(5, int(SIZES[self.size]["vocab_size"]), shape, generator=generator)
        labels = torch.randint(len(_LABELS), shape, generator=generator)
        if case.language:
            labels = torch.full(shape, -100)
            chosen = torch.randperm(ids.numel(), generator=generator)[: max(round(_MASKED * ids.numel()), 1)]
            labels.view(-1)[chosen] = ids.view(-1)[chosen]
        found = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
        return {name: tensor.to(self.device) for name, tensor in found.items()}


@dataclass
class System:
    """One of those compared.

    Attributes:
        trained: what AdamW updates; empty for the floor.
        logits: makes (targets, classes).
        loss: makes the mean over the targets.
        prepare: what the engine has a method do before the loss.
        modules: ours, by the name of the library's adapter that gets the same weights.
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
        self.prepare()
        with torch.autocast(self.setup.device.type, torch.bfloat16, enabled=self.setup.precision == "bf16"):
            loss = self.loss()
        loss.backward()
        if self._optimizer is not None:
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)


def build(setup: Setup, case: Case, name: str) -> System:
    if name in _PEERS:
        return theirs(setup, case, everywhere=name == "all_logits")
    return floor(setup, case) if name == "floor" else ours(setup, case, "mad_x" if name == "xlt" else name)


def ours(setup: Setup, case: Case, method_name: str) -> System:
    """Our method on our model, called as the engine calls it; what it leaves empty is not called."""
    task, model, batch = task_of(case), transfer_model(setup, case), setup.features(case)
    below = language_module(setup) if case.over_language else None
    if below is not None:
        below.apply(model)
    method = attached(setup, method_name, case.reduction_factor, model, case.language)
    targets, turns = task.targets(batch), itertools.cycle(LANGUAGES)

    def prepare() -> None:
        method.language(next(turns))
        method.write()

    def loss() -> Tensor:
        return method.loss(model, batch, task.loss) / targets

    def modules() -> dict[str, Adapter]:
        own = method.export(model, _header(case.language))
        assert isinstance(own, Adapter)
        return {"language" if case.language else "task": own} | ({} if below is None else {"language": below})

    trained = list(method.trainable().values())
    return System(model, trained, lambda: logits_of(model, batch), loss, setup, prepare, modules)


def floor(setup: Setup, case: Case) -> System:
    """Our model, frozen: gradients down to where the lowest adapter would be trained."""
    task, model, batch = task_of(case), transfer_model(setup, case), setup.features(case)
    model.requires_grad_(False)
    lowest, modules = find_blocks(model)[0], dict(model.named_modules())
    if case.language:
        change_input(modules[lowest.path], lambda hidden: hidden.detach().requires_grad_())
    else:
        assert lowest.norm is not None
        modules[lowest.norm].register_forward_hook(lambda *call: call[-1].detach().requires_grad_())
    targets = task.targets(batch)
    return System(model, [], lambda: logits_of(model, batch), lambda: task.loss(model, batch) / targets, setup)


def theirs(setup: Setup, case: Case, everywhere: bool) -> System:
    """The library's adapters in transformers' own model.

    Args:
        everywhere: the model's own forward pass with labels, language-model logits at all positions.
    """
    import adapters
    from adapters import SeqBnConfig, SeqBnInvConfig
    from adapters.composition import Stack

    torch.manual_seed(0)
    model: Any = (BertForMaskedLM if case.language else BertForTokenClassification)(setup.config())
    adapters.init(model)
    layers = int(SIZES[setup.size]["num_hidden_layers"])
    left_out = list(range(layers - setup.leave_out_last, layers))
    if case.language or case.over_language:
        model.add_adapter("language", SeqBnInvConfig(reduction_factor=_LANGUAGE_REDUCTION, leave_out=left_out))
    if not case.language:
        model.add_adapter("task", SeqBnConfig(reduction_factor=case.reduction_factor, leave_out=left_out))
    own = "language" if case.language else "task"
    model.train_adapter(own)
    model.set_active_adapters(Stack("language", "task") if case.over_language else own)
    if case.language:
        model.cls.requires_grad_(False)  # train_adapter leaves every head to be trained
        inverse = model.base_model.invertible_adapters["language"]
        model.get_output_embeddings().register_forward_pre_hook(
            lambda _, given: (inverse(given[0].reshape(1, -1, given[0].shape[-1]), rev=True).view_as(given[0]),)
        )
    model.to(setup.device)
    batch = setup.features(case)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    taught = batch["labels"] != -100
    targets = batch["labels"][taught]

    def logits() -> Tensor:
        if everywhere or not case.language:
            return model(**inputs).logits[taught]
        return model.cls(model.base_model(**inputs).last_hidden_state[taught])

    def loss() -> Tensor:
        return model(**batch).loss if everywhere else functional.cross_entropy(logits().float(), targets)

    return System(model, [p for p in model.parameters() if p.requires_grad], logits, loss, setup)


def task_of(case: Case) -> Task:
    if case.language:
        return MaskedLanguageModelling(max_length=512, masked_share=_MASKED, packing=False)
    return Tagging("pos", "upos", _LABELS, max_length=512, dropout=0.1, metric="accuracy")


def transfer_model(setup: Setup, case: Case, vocabulary: int | None = None) -> TransferModel:
    torch.manual_seed(0)
    model = TransferModel(*split_pretrained(BertForMaskedLM(setup.config(vocabulary))), "random", setup.size)
    if not case.language:
        model.lm_head, model.head = None, task_of(case).head(model.hidden_size)
    return model.to(setup.device)


def attached(setup: Setup, name: str, reduction_factor: int, model: TransferModel, adapts_language: bool) -> Method:
    """The method as conf/method has it; up-projections not zero, so that agreement says something."""
    overrides = [f"method={name}", f"method.reduction_factor={reduction_factor}"]
    overrides.append(f"method.leave_out_last={setup.leave_out_last}")
    with tempfile.TemporaryDirectory() as folder:
        if name == "mad_g":  # vectors as long as URIEL's; what is in them does not matter to time
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
    """A language module, made on a model of few words: the adapters are the same."""
    model = transfer_model(setup, CASES["language"], vocabulary=100)
    module = attached(setup, "mad_x", _LANGUAGE_REDUCTION, model, adapts_language=True).export(model, _header(True))
    assert isinstance(module, Adapter)
    return module


def _header(of_language: bool) -> ModuleHeader:
    language, task = (LANGUAGES[0], None) if of_language else (None, "pos")
    return ModuleHeader(
        kind="adapter", method="mad_x", base_model="random", base_hash="random", language=language, task=task
    )


def logits_of(model: TransferModel, batch: Mapping[str, Tensor]) -> Tensor:
    hidden = model.encode(batch["input_ids"], batch["attention_mask"])[batch["labels"] != -100]
    return model.language_model_logits(hidden) if model.head is None else model.head(hidden)


def agree(mine: System, other: System) -> dict[str, float]:
    """Gives the library's side our weights and compares, without dropout, in float32.

    Returns:
        Relative differences of logits (to the largest), loss and norm of the gradient.
    Raises:
        SystemExit: the two do not do the same work.
    """
    with torch.no_grad():
        for prefix, part in (("bert.", mine.model.backbone), ("cls.", mine.model.lm_head), ("", mine.model.head)):
            for name, parameter in part.named_parameters() if isinstance(part, nn.Module) else ():
                other.model.get_parameter(f"{prefix}{name}").copy_(parameter)
        for name, module in mine.modules().items():
            for own, peer in parameter_pairs(other.model, module, name):
                peer.copy_(own)
    (logits, *numbers), (their_logits, *their_numbers) = _seen(mine), _seen(other)
    apart = [float((logits - their_logits).abs().max() / logits.abs().max())]
    apart += [abs(b / a - 1) for a, b in zip(numbers, their_numbers, strict=True)]
    if not all(difference <= _TOLERANCE for difference in apart) or mine.parameters != other.parameters:
        counts = f"{mine.parameters} and {other.parameters} trained parameters"
        sys.exit(f"the sides differ: logits, loss and norm of the gradient by {apart}, {counts}")
    return dict(zip(("logits", "loss", "gradient_norm"), apart, strict=True))


def _seen(system: System) -> tuple[Tensor, float, float]:
    """Logits, loss and norm of the gradient."""
    system.model.eval()
    loss = system.loss()
    gradients = torch.autograd.grad(loss, system.trained)
    with torch.no_grad():
        logits = system.logits()
    system.model.train()
    return logits, float(loss), float(torch.stack([gradient.norm() for gradient in gradients]).norm())


def products(step: Callable[[], None]) -> int:
    """Operations of a step's matrix products; without attention's, whose kernels are not all counted."""
    with FlopCounterMode(display=False) as counter:
        step()
    counts = counter.get_flop_counts()["Global"]
    return sum(counts.get(operator, 0) for operator in (torch.ops.aten.mm, torch.ops.aten.addmm))


def measure_time(setup: Setup, case: Case, names: Sequence[str], steps: int) -> dict[str, Any]:
    """Seconds of each system's steps, in turn, in this process."""
    systems = {name: build(setup, case, name) for name in names}
    differences = {name: agree(systems["xlt"], systems[name]) for name in names if name in _PEERS}
    operations = {name: products(system.step) for name, system in systems.items()}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(_WARM_UP + steps):
        first = number % len(names)
        for name in (*names[first:], *names[:first]):
            seconds[name].append(_seconds(systems[name].step, setup.device))
    return {
        "seconds": {name: times[_WARM_UP:] for name, times in seconds.items()},
        "operations": operations,
        "trained": {name: system.parameters for name, system in systems.items()},
        "differences": differences,
    }


def _seconds(step: Callable[[], None], device: torch.device) -> float:
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    started = time.perf_counter()
    step()
    wait()
    return time.perf_counter() - started


def measure_memory(setup: Setup, case: Case, name: str) -> dict[str, float]:
    """High-water mark of two steps in this process; the second has the optimiser's state beside its gradients."""
    system = build(setup, case, name)
    with torch.no_grad():
        system.loss()  # what the libraries import at first use is not the step's
    gc.collect()
    on_gpu = setup.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
        start = torch.cuda.memory_allocated() / 2**20
    else:
        reset_high_water_mark()
        start = high_water_mark()
    for _ in range(2):
        system.step()
    peak = torch.cuda.max_memory_allocated() / 2**20 if on_gpu else high_water_mark()
    return {"peak_mib": peak, "grown_mib": peak - start}


def measure_generation(setup: Setup, repeats: int) -> dict[str, Any]:
    """Seconds to make one language's module of a generator, which is kept on the CPU."""
    model = transfer_model(setup, CASES["mad_g"], vocabulary=100)
    generator = attached(setup, "mad_g", _LANGUAGE_REDUCTION, model, adapts_language=True).export(model, _header(True))
    assert isinstance(generator, Generator)
    seconds = []
    for number in range(_WARM_UP + repeats):
        started = time.perf_counter()
        made = generator.for_language(LANGUAGES[number % len(LANGUAGES)])
        seconds.append(time.perf_counter() - started)
    size = sum(parameter.numel() for parameter in generator.network.parameters())
    return {"seconds": seconds[_WARM_UP:], "generator_parameters": size, "adapter_parameters": made.num_entries}


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and quartiles."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
    return {"median": middle, "low": low, "high": high}


def in_a_process(*what: str, environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    command = [sys.executable, __file__, *sys.argv[1:], "--one", ",".join(what)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **(environment or {})})
    if done.returncode:
        sys.exit(f"{' '.join(what)}: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def compare(name: str, names: Sequence[str], rounds: int) -> dict[str, Any]:
    """A case's numbers over all rounds."""
    seconds: dict[str, list[float]] = {system: [] for system in names}
    memory: dict[str, list[dict[str, float]]] = {system: [] for system in names}
    for _ in range(rounds):
        found = in_a_process("time", name)
        for system in names:
            seconds[system] += found["seconds"][system]
            memory[system].append(in_a_process("memory", name, system, environment=_GIVE_BACK))

    def ratio(system: str, to: str) -> dict[str, float]:
        return spread([a / b for a, b in zip(seconds[system], seconds[to], strict=True)])

    rows: dict[str, dict[str, Any]] = {
        system: {
            "seconds": spread(seconds[system]),
            "all_seconds": seconds[system],
            "ratio_to_floor": ratio(system, "floor"),
            "operations": found["operations"][system],
            "operations_to_floor": found["operations"][system] / found["operations"]["floor"],
            **{key: statistics.median(one[key] for one in memory[system]) for key in ("peak_mib", "grown_mib")},
            "all_memory": memory[system],
            "trained": found["trained"][system],
        }
        for system in names
    }
    pairs = [("xlt", peer) for peer in _PEERS if peer in names] + ([("mad_g", "xlt")] if "mad_g" in names else [])
    ratios = {
        f"{one} / {other}": {
            "seconds": ratio(one, other),
            **{key: rows[one][key] / rows[other][key] for key in ("peak_mib", "grown_mib")},
        }
        for one, other in pairs
    }
    return {"rows": rows, "ratios": ratios, "differences": found["differences"]}


def show(title: str, found: Mapping[str, Any]) -> None:
    """A case's table, within 80 columns."""
    print(f"\n{title}")
    print(f"  {'':10} {'ms a step (quartiles)':>27} {'x floor':>7} {'ops':>5} {'MiB':>6} {'grown':>6} {'trained':>8}")
    for name, row in found["rows"].items():
        times = f"{_milliseconds(row['seconds']):>27} {row['ratio_to_floor']['median']:7.2f}"
        memory = f"{row['peak_mib']:6.0f} {row['grown_mib']:6.0f} {row['trained'] / 1e6:7.2f}M"
        print(f"  {name:10} {times} {row['operations_to_floor']:5.2f} {memory}")
    for pair, ratio in found["ratios"].items():
        low, middle, high = (ratio["seconds"][part] for part in ("low", "median", "high"))
        memory = f"MiB {ratio['peak_mib']:.3f}, grown {ratio['grown_mib']:.3f}"
        print(f"  {pair}: time {middle:.3f} ({low:.3f} - {high:.3f}), {memory}")
    for name, apart in found["differences"].items():
        parts = ", ".join(f"{part} {difference:.0e}" for part, difference in apart.items())
        print(f"  xlt and {name} agree, relative: {parts}")


def _milliseconds(seconds: Mapping[str, float]) -> str:
    low, middle, high = (1000 * seconds[part] for part in ("low", "median", "high"))
    return f"{middle:.1f} ({low:.1f} - {high:.1f})"


def _version(package: str) -> str | None:
    return importlib.metadata.version(package) if importlib.util.find_spec(package) is not None else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--cases", nargs="+", choices=[*CASES, "generate"], default=[*CASES, "generate"])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=128, help="of each sequence")
    parser.add_argument("--steps", type=int, default=10, help="timed steps of each system in each round")
    parser.add_argument("--rounds", type=int, default=2, help="fresh processes of each measurement")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help="bf16: autocast, on both sides")
    parser.add_argument("--leave-out-last", type=int, default=0, help="blocks at the top without adapters")
    parser.add_argument("--output", type=Path, default=None)
    parser.add_argument("--one", default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    setup = Setup(options.size, options.batch, options.tokens, options.leave_out_last, device, options.precision)
    versions = {package: _version(package) for package in ("torch", "transformers", "adapters")}
    there = {name: [s for s in case.systems if s not in _PEERS or versions["adapters"]] for name, case in CASES.items()}
    if options.one is not None:
        kind, *what = options.one.split(",")
        if kind == "generate":
            measured = measure_generation(setup, options.steps)
        elif kind == "time":
            measured = measure_time(setup, CASES[what[0]], there[what[0]], options.steps)
        else:
            measured = measure_memory(setup, CASES[what[0]], what[1])
        print(json.dumps(measured))
        return
    on_gpu = device.type == "cuda"
    name = torch.cuda.get_device_name() if on_gpu else platform.processor() or platform.machine()
    shared = {key: value for key, value in vars(options).items() if key not in ("output", "one", "cases", "device")}
    record: dict[str, Any] = {"device": name, "python": platform.python_version(), **versions, **shared, "cases": {}}
    print(f"{options.size}, {options.batch} x {options.tokens} tokens, {options.precision}, {name}")
    print(", ".join(f"{package} {number or 'missing'}" for package, number in versions.items()))
    if versions["adapters"] is None:
        print("adapters is not installed, so ours alone; pip install adapters, in its own environment")
    for chosen in options.cases:
        if chosen == "generate":
            rounds = [in_a_process("generate") for _ in range(options.rounds)]
            seconds = [value for found in rounds for value in found["seconds"]]
            record["generate"] = rounds[0] | {"seconds": spread(seconds), "all_seconds": seconds}
            made, size = (rounds[0][f"{part}_parameters"] / 1e6 for part in ("adapter", "generator"))
            print(f"\none language's adapter, {made:.2f}M parameters, from a generator of {size:.2f}M, CPU:")
            print(f"  {_milliseconds(record['generate']['seconds'])} ms (quartiles)")
        else:
            record["cases"][chosen] = compare(chosen, there[chosen], options.rounds)
            show(CASES[chosen].title, record["cases"][chosen])
    if options.output is not None:
        options.output.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
