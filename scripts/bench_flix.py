"""Measures a training step of FLix beside LoRA's of the same active rank: one language or eight, few features or many.

    python scripts/bench_flix.py --output outputs/bench/flix.json

A step is forward and backward pass and the optimiser's step. The contenders take turns, so that another load of the
machine meets all alike; each is shown by the median of its processor time, and relative to LoRA. Memory is measured for
each in a process of its own: `grown_mib` is the peak of three steps above the model alone, `held_mib` what the method's
parameters, their gradients and the optimiser's moments take, and `beside_mib` the rest, which activations need. FLix's
memory grows by its parameters alone if `beside_mib` is LoRA's, however many features there are.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import cycle
from typing import Any

import torch
from benchmark.memory import RETURN_FREED_MEMORY, PeakMemory
from benchmark.process import in_own_process
from benchmark.report import CommandLine, machine, settings, write_record
from torch import Tensor, nn

from xlt.data.streams import stream
from xlt.methods.flix import Flix
from xlt.methods.lora import Lora
from xlt.methods.method import Budget, Method, MicroBatch, Setting
from xlt.models.transfer import TransferModel

RANKS = {"task": 4, "language": 2}
LORA = "LoRA, rank 6"
# Contender -> feature dropout (None: LoRA), languages that the method knows, languages in a batch.
CONTENDERS: dict[str, tuple[float | None, int, int]] = {
    LORA: (None, 8, 1),
    "FLix, 9 features, one language": (0.0, 8, 1),
    "FLix, 9 features, eight languages": (0.0, 8, 8),
    "FLix, 9 features, eight languages, dropout 0.7": (0.7, 8, 8),
    "FLix, 200 features, one language": (0.0, 199, 1),
    "FLix, 200 features, eight languages": (0.0, 199, 8),
}
MIB = 2**20


def model_of(options: argparse.Namespace) -> TransferModel:
    """An encoder with random weights and a head of 17 labels."""
    from transformers import BertConfig, BertModel

    shape = BertConfig(
        vocab_size=1000,
        hidden_size=options.hidden,
        num_hidden_layers=options.layers,
        num_attention_heads=options.hidden // 64,
        intermediate_size=4 * options.hidden,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    torch.manual_seed(0)
    model = TransferModel(BertModel(shape, add_pooling_layer=False), None, "-", "random")
    model.head = nn.Linear(options.hidden, 17)
    return model


def steps(name: str, model: TransferModel, options: argparse.Namespace) -> Iterator[int]:
    """Yields after each step of training the bytes of parameters, gradients and moments that the step had."""
    dropout, languages, used = CONTENDERS[name]
    method: Method = Lora(6, 6, 0.0) if dropout is None else Flix(RANKS, 2, "b", [], dropout, "example", False)
    described = [{"task": "pos", "language": f"l{number}"} for number in range(languages)]
    (phase,) = method.phases(Budget(4, 1, None, 1, 1e-3))
    method.attach(model, phase, Setting(False, lambda *name: stream(1, *name), described=described))
    model.train()
    optimizer = method.optimizer(method.trainable(), 1e-4, 0.0)
    ids = torch.randint(0, 1000, (options.examples, options.length), generator=stream(1, "ids"))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    def loss(model: TransferModel, batch: Mapping[str, Tensor]) -> Tensor:
        assert model.head is not None
        return model.head(model.encode(batch["input_ids"], batch["attention_mask"])).logsumexp(-1).sum()

    own = [described[number * used // options.examples] for number in range(options.examples)]
    for step in range(10**6):
        part = MicroBatch(range(options.examples), options.examples, stream(step, "features"))
        method.write()
        method.examples(own if used > 1 else own[:1], part)
        method.loss(model, batch, loss).backward()
        method.before_step()
        tuned = list(method.trainable().values())
        nn.utils.clip_grad_norm_([value for value in tuned if value.grad is not None], 1.0)
        optimizer.step()
        held = [*tuned, *(value.grad for value in tuned if value.grad is not None)]
        held += [one for state in optimizer.state.values() for one in state.values() if isinstance(one, Tensor)]
        size = sum(tensor.numel() * tensor.element_size() for tensor in held)
        optimizer.zero_grad(set_to_none=True)
        yield size


def measure_memory(name: str, options: argparse.Namespace) -> dict[str, float]:
    """Memory of three steps of a contender, above that of the model."""
    model = model_of(options)
    ids = torch.zeros(options.examples, options.length, dtype=torch.long)
    with torch.no_grad():  # the first pass imports what it needs
        model.encode(ids, torch.ones_like(ids))
    memory = PeakMemory()
    running = steps(name, model, options)
    held = max(next(running) for _ in range(3)) / MIB
    grown = memory.grown_mib()
    return {"grown_mib": grown, "held_mib": held, "beside_mib": grown - held}


def measure_time(options: argparse.Namespace) -> dict[str, float]:
    """Contender -> median seconds of a step; the first step of each does not count."""
    runs = {name: steps(name, model_of(options), options) for name in CONTENDERS}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for name, _ in zip(cycle(runs), range(len(runs) * (options.rounds + 1)), strict=False):
        started = time.thread_time()
        next(runs[name])
        seconds[name].append(time.thread_time() - started)
    return {name: statistics.median(times[1:]) for name, times in seconds.items()}


def main() -> None:
    line = CommandLine(__doc__, rounds=7)
    for name, value, about in (
        ("layers", 4, "blocks of the encoder"),
        ("hidden", 256, "hidden size, a multiple of 64"),
        ("examples", 32, "examples in a batch"),
        ("length", 48, "tokens in an example"),
    ):
        line.add_count(name, value, about)
    options = line.parse_args()
    torch.set_num_threads(1)
    seconds = measure_time(options)
    measure: Callable[..., Any] = measure_memory
    rows = {
        name: {
            "seconds": median,
            "to_lora": median / seconds[LORA],
            **in_own_process(measure, name, options, threads=1, environment=RETURN_FREED_MEMORY),
        }
        for name, median in seconds.items()
    }
    for row in rows.values():
        row["beside_to_lora"] = row["beside_mib"] / rows[LORA]["beside_mib"]
    for name, row in rows.items():
        print(
            f"{name:<48} {1000 * row['seconds']:8.1f} ms {row['to_lora']:5.2f} x LoRA, grown {row['grown_mib']:7.1f}"
            f" MiB = {row['held_mib']:6.1f} held + {row['beside_mib']:7.1f}, {row['beside_to_lora']:5.3f} x LoRA"
        )
    write_record({**machine(), **settings(options), "rows": rows}, options.output)


if __name__ == "__main__":
    main()
