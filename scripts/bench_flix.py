"""Measures a training step of FLix beside LoRA's of the same active rank: one language or eight, few features or many.

    python scripts/bench_flix.py [--layers 4] [--hidden 256] [--examples 32] [--length 48] [--rounds 7]

A step is forward and backward pass and the optimiser's step, on one thread. The contenders take turns, so that another
load of the machine meets all alike; each is shown by the median of its processor time, and relative to LoRA.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import cycle
from typing import Any

import torch
from torch import Tensor, nn

from xlt.data.streams import stream
from xlt.methods.flix import Flix
from xlt.methods.lora import Lora
from xlt.methods.method import Budget, Method, MicroBatch, Setting
from xlt.models.transfer import TransferModel

RANKS = {"task": 4, "language": 2}


def model_of(arguments: argparse.Namespace) -> TransferModel:
    """An encoder with random weights and a head of 17 labels."""
    from transformers import BertConfig, BertModel

    shape = BertConfig(
        vocab_size=1000,
        hidden_size=arguments.hidden,
        num_hidden_layers=arguments.layers,
        num_attention_heads=arguments.hidden // 64,
        intermediate_size=4 * arguments.hidden,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    torch.manual_seed(0)
    model = TransferModel(BertModel(shape, add_pooling_layer=False), None, "-", "random")
    model.head = nn.Linear(arguments.hidden, 17)
    return model


def steps(method: Method, languages: int, used: int, arguments: argparse.Namespace) -> Iterator[None]:
    """Yields after each step of training: a batch of `used` languages, of `languages` that the method knows."""
    model = model_of(arguments)
    described = [{"task": "pos", "language": f"l{number}"} for number in range(languages)]
    (phase,) = method.phases(Budget(4, 1, None, 1, 1e-3))
    method.attach(model, phase, Setting(False, lambda *name: stream(1, *name), described=described))
    model.train()
    optimizer = method.optimizer(method.trainable(), 1e-4, 0.0)
    ids = torch.randint(0, 1000, (arguments.examples, arguments.length), generator=stream(1, "ids"))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    def loss(model: TransferModel, batch: Mapping[str, Tensor]) -> Tensor:
        assert model.head is not None
        return model.head(model.encode(batch["input_ids"], batch["attention_mask"])).logsumexp(-1).sum()

    own = [described[number * used // arguments.examples] for number in range(arguments.examples)]
    for step in range(10**6):
        part = MicroBatch(range(arguments.examples), arguments.examples, stream(step, "features"))
        method.write()
        method.examples(own if used > 1 else own[:1], part)
        method.loss(model, batch, loss).backward()
        method.before_step()
        nn.utils.clip_grad_norm_([value for value in method.trainable().values() if value.grad is not None], 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        yield


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in (("layers", 4), ("hidden", 256), ("examples", 32), ("length", 48), ("rounds", 7)):
        parser.add_argument(f"--{name}", type=int, default=value)
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    def flix(dropout: float = 0.0) -> Flix:
        return Flix(RANKS, 2, "b", [], dropout, "example", False)

    contenders: dict[str, tuple[Callable[[], Any], int, int]] = {
        "LoRA, rank 6": (lambda: Lora(6, 6, 0.0), 8, 1),
        "FLix, 9 features, one language": (flix, 8, 1),
        "FLix, 9 features, eight languages": (flix, 8, 8),
        "FLix, 9 features, eight languages, dropout 0.7": (lambda: flix(0.7), 8, 8),
        "FLix, 200 features, one language": (flix, 199, 1),
        "FLix, 200 features, eight languages": (flix, 199, 8),
    }
    runs = {name: steps(make(), known, used, arguments) for name, (make, known, used) in contenders.items()}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for name, _ in zip(cycle(runs), range(len(runs) * (arguments.rounds + 1)), strict=False):
        started = time.thread_time()
        next(runs[name])
        seconds[name].append(time.thread_time() - started)
    medians = {name: statistics.median(times[1:]) for name, times in seconds.items()}
    base = medians["LoRA, rank 6"]
    for name, median in medians.items():
        print(f"{name:<50} {1000 * median:8.1f} ms  {median / base:5.2f} x LoRA")


if __name__ == "__main__":
    main()
