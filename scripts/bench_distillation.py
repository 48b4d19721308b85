"""Step time and peak memory of BiStil's first stage beside the obvious way with transformers.

    python scripts/bench_distillation.py --size mbert --rounds 5 --output bench_distillation.json
    python scripts/bench_distillation.py --size small          # anywhere: does it run?

A step is the teacher's pass without gradient, the student's pass and its backward pass, and AdamW (fused) over all of
the student. Models have random weights, the same for all systems, and random sequences of which the last half of the
rows is padded to between a half and the whole length. Systems:

    xlt         as the engine does it: fast attention, maps computed from queries and keys in the loss
    xlt_bf16    the same with the teacher's weights in bfloat16 (teacher.dtype=bfloat16)
    naive       `output_attentions=True, output_hidden_states=True` of both base models, masked mean squared errors
    naive_mlm   the same of the models with their language-model heads, as `AutoModelForMaskedLM` gives them

Before anything is timed, the losses and gradients of `xlt` and `naive` must agree. Steps are timed in turn (A B C,
B C A, ...) in one process each; ratios are medians over the turns of the ratio within the turn. Memory is the resident
set's high-water mark of one step above what the models took (Linux), or on a GPU what torch allocated, whole.

What limits a step: with T teacher and S student layers of P parameters, 2 T P + 6 S P operations a token. The maps add
8 l d operations a token and compared layer for both models, a few per cent at 256 tokens. What the naive way has to
move besides are its maps: heads x l x l floats a sequence and layer, of which the student's stay until the backward
pass (three times: scores, distribution, after dropout), and the teacher's until the loss.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from bench_training import SIZES, high_water_mark, reset_high_water_mark
from torch import Tensor
from torch.nn import functional
from transformers import BertConfig, BertForMaskedLM

from xlt.engine.distillation import ATTENTION, HIDDEN, Distillation
from xlt.models.cpu_training import fast_training
from xlt.models.loading import take_apart, whole_pretrained
from xlt.models.student import make_student
from xlt.models.transfer import TransferModel
from xlt.tasks.mlm import MaskedLanguageModelling

SYSTEMS = ("xlt", "xlt_bf16", "naive", "naive_mlm")
_STRIDE = 2
_KEPT_SHARE = 0.26  # thesis Table 5.2: 31K of mBERT's 120K
_WARM_UP = 1
# Relative; float32, the same terms in another order.
_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Setup:
    """What all systems share."""

    size: str
    batch: int
    tokens: int
    device: str
    precision: str


def models(setup: Setup) -> tuple[TransferModel, TransferModel, Tensor]:
    """Teacher (frozen, in evaluation mode), student, and the teacher's ids of the student's tokens."""
    shape = BertConfig(**SIZES[setup.size], intermediate_size=4 * SIZES[setup.size]["hidden_size"])
    torch.manual_seed(1)
    teacher = take_apart(BertForMaskedLM(shape), "teacher")
    kept = torch.arange(int(_KEPT_SHARE * shape.vocab_size))
    layers = range(_STRIDE - 1, shape.num_hidden_layers, _STRIDE)
    student = make_student(teacher, layers, kept, copies=True, seed=1)
    with torch.no_grad():
        for parameter in student.backbone.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    teacher.requires_grad_(False).eval()
    return teacher.to(setup.device), student.train().to(setup.device), kept


def make_batch(setup: Setup, tokens: int) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(2)
    ids = torch.randint(5, tokens, (setup.batch, setup.tokens), generator=draw)
    lengths = torch.full((setup.batch,), setup.tokens)
    padded = setup.batch // 2
    lengths[:padded] = torch.randint(setup.tokens // 2, setup.tokens + 1, (padded,), generator=draw)
    mask = (torch.arange(setup.tokens) < lengths[:, None]).long()
    return {name: tensor.to(setup.device) for name, tensor in {"input_ids": ids, "attention_mask": mask}.items()}


def our_loss(teacher: TransferModel, student: TransferModel, kept: Tensor) -> Callable[[dict[str, Tensor]], Tensor]:
    task = MaskedLanguageModelling(512, 0.15, packing=False)
    teacher.lm_head = None
    layers = int(student.backbone.config.num_hidden_layers)  # type: ignore[union-attr,arg-type]
    distillation = Distillation(task, teacher, layers, kept, [ATTENTION, HIDDEN])

    def loss(batch: dict[str, Tensor]) -> Tensor:
        with fast_training(student.device):
            return distillation.loss(student, batch) / len(batch["input_ids"])

    return loss


def naive_loss(teacher: TransferModel, student: TransferModel, head: bool) -> Callable[[dict[str, Tensor]], Tensor]:
    """Eq. 5.1 and 5.2 as one writes them down first."""
    theirs: Any
    ours: Any
    theirs, ours = (whole_pretrained(model) if head else model.backbone for model in (teacher, student))
    for model in (theirs, ours):
        model.set_attn_implementation("eager")  # what gives attention out

    def loss(batch: dict[str, Tensor]) -> Tensor:
        with torch.no_grad():
            wanted = theirs(**batch, output_attentions=True, output_hidden_states=True)
        found = ours(**batch, output_attentions=True, output_hidden_states=True)
        mask = batch["attention_mask"].float()
        pairs = mask[:, None, :, None] * mask[:, None, None, :]
        attention = hidden = torch.zeros((), device=mask.device)
        layers = len(found.attentions)
        for i in range(layers):
            squares = functional.mse_loss(found.attentions[i], wanted.attentions[i * _STRIDE + 1], reduction="none")
            mean = (squares * pairs).sum((1, 2, 3)) / (squares.shape[1] * mask.sum(1) ** 2)
            attention = attention + mean.mean() / layers
        for i in range(layers + 1):
            squares = functional.mse_loss(found.hidden_states[i], wanted.hidden_states[i * _STRIDE], reduction="none")
            mean = (squares * mask[:, :, None]).sum((1, 2)) / (squares.shape[2] * mask.sum(1))
            hidden = hidden + mean.mean() / (layers + 1)
        return attention + hidden

    return loss


def loss_of(
    system: str, setup: Setup
) -> tuple[Callable[[dict[str, Tensor]], Tensor], TransferModel, dict[str, Tensor]]:
    teacher, student, kept = models(setup)
    batch = make_batch(setup, len(kept))
    if system.startswith("xlt"):
        if system == "xlt_bf16":
            teacher.to(torch.bfloat16)
        return our_loss(teacher, student, kept.to(setup.device)), student, batch
    return naive_loss(teacher, student, system == "naive_mlm"), student, batch


def agree(setup: Setup) -> dict[str, float]:
    """Relative differences of loss and gradients between `xlt` and `naive`, dropout off.

    Raises:
        SystemExit: they are not the same.
    """
    found = {}
    for system in ("xlt", "naive"):
        loss_function, student, batch = loss_of(system, setup)
        student.eval()
        loss = loss_function(batch)
        loss.backward()
        gradient = torch.cat([p.grad.flatten() for p in student.backbone.parameters() if p.grad is not None])
        found[system] = (float(loss.detach()), gradient)
    (ours, gradient), (theirs, other) = found["xlt"], found["naive"]
    told = {
        "loss": abs(ours - theirs) / abs(theirs),
        "gradient": float((gradient - other).norm() / other.norm()),
    }
    if setup.precision == "fp32" and max(told.values()) > _TOLERANCE:
        raise SystemExit(f"bench_distillation: the systems do not compute the same: {told}")
    return told


def steps(system: str, setup: Setup) -> Callable[[], float]:
    """A function that makes one step and returns its seconds."""
    loss_function, student, batch = loss_of(system, setup)
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-4, fused=True)
    wait = torch.cuda.synchronize if setup.device == "cuda" else (lambda: None)

    def step() -> float:
        wait()
        started = time.perf_counter()
        with torch.autocast(setup.device, torch.bfloat16, enabled=setup.precision == "bf16"):
            loss = loss_function(batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        wait()
        return time.perf_counter() - started

    return step


def memory(system: str, setup: Setup) -> dict[str, float]:
    """MiB of one step; in a process of its own."""
    step = steps(system, setup)
    if setup.device == "cuda":
        step()
        torch.cuda.reset_peak_memory_stats()
        step()
        return {"peak_mib": torch.cuda.max_memory_allocated() / 2**20}
    step()  # the optimiser's moments are there from now on
    gc.collect()
    reset_high_water_mark()
    before = high_water_mark()
    step()
    peak = high_water_mark()
    return {"peak_mib": peak, "grown_mib": peak - before}


def run_alone(system: str, setup: Setup) -> dict[str, float]:
    """`memory` in a fresh process."""
    with tempfile.NamedTemporaryFile("r", suffix=".json") as file:
        words = ["--memory-of", system, "--output", file.name, "--size", setup.size, "--batch", str(setup.batch)]
        words += ["--tokens", str(setup.tokens), "--device", setup.device, "--precision", setup.precision]
        environment = {"MALLOC_MMAP_THRESHOLD_": "131072"}  # large tensors are given back when they are freed
        subprocess.run([sys.executable, __file__, *words], check=True, env={**os.environ, **environment})
        return json.load(file)


def time_in_turn(systems: Sequence[str], setup: Setup, rounds: int) -> dict[str, list[float]]:
    made = {system: steps(system, setup) for system in systems}
    for step in made.values():
        for _ in range(_WARM_UP):
            step()
    seconds: dict[str, list[float]] = {system: [] for system in systems}
    for turn in range(rounds):
        order = [systems[(turn + at) % len(systems)] for at in range(len(systems))]
        for system in order:
            seconds[system].append(made[system]())
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--memory-of", choices=SYSTEMS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    setup = Setup(given.size, given.batch, given.tokens, given.device, given.precision)
    if given.memory_of is not None:
        given.output.write_text(json.dumps(memory(given.memory_of, setup)))
        return
    report: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if setup.device == "cuda" else platform.processor() or "cpu",
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "setup": setup.__dict__,
        "agreement": agree(setup),
        "memory": {system: run_alone(system, setup) for system in given.systems},
        "seconds": time_in_turn(given.systems, setup, given.rounds),
    }
    peer = "naive" if "naive" in given.systems else given.systems[-1]
    report["time_ratio"] = {
        system: statistics.median(a / b for a, b in zip(times, report["seconds"][peer], strict=True))
        for system, times in report["seconds"].items()
    }
    print(f"{setup.size}, {setup.batch} x {setup.tokens}, {setup.precision}; beside {peer}")
    for system in given.systems:
        used = report["memory"][system]
        whole = used["peak_mib"] / report["memory"][peer]["peak_mib"]
        line = f"{system:10} time x{report['time_ratio'][system]:.2f}  memory x{whole:.2f} ({used['peak_mib']:.0f} MiB)"
        if "grown_mib" in used:
            grown = used["grown_mib"] / max(report["memory"][peer]["grown_mib"], 1)
            line += f", of a step alone x{grown:.2f} ({used['grown_mib']:.0f} MiB)"
        print(line)
    if given.output is not None:
        given.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
