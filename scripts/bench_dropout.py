"""Times what replaces torch's dropout and attention while a model trains on a CPU.

    python scripts/bench_dropout.py --output outputs/bench/dropout.json

Three things, each forward and backward pass together, ours and torch's in turn (A B A B ...), medians over `--rounds`:
dropout of hidden states; attention, with dropout and without; and a training step's passes through a BERT with random
weights, dropout 0.1, under `fast_training` and without. Ratios are ours to torch's: below 1, ours is faster.

What limits them: torch draws dropout an entry at a time on one core, some 5 ns each; ours reads and writes each tensor
once or twice. Torch's attention with dropout writes scores, distribution, mask and their product to memory, each
batch x heads x length x length; ours keeps a byte an entry, and computes the distribution twice in the cache.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from torch.nn import functional
from xlt_kernels.attention_maps import AttentionInputs
from xlt_kernels.dropout import dropout
from xlt_kernels.lean_attention import is_leaner, lean_attention

from xlt.models.cpu_training import fast_training

DROPOUT = 0.1
DTYPES = (torch.float32, torch.bfloat16)
HIDDEN = ((16, 32, 384), (32, 96, 384), (8, 256, 768))
ATTENTION = ((8, 4, 32, 32), (32, 12, 64, 32), (16, 12, 128, 32), (12, 12, 256, 32), (8, 12, 256, 64), (8, 12, 512, 64))
MODELS = {"12x384": (12, 384, 12, 1536), "12x768": (12, 768, 12, 3072)}
BATCHES = ((32, 64), (12, 256))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--models", nargs="*", choices=tuple(MODELS), default=["12x384"])
    parser.add_argument("--output", type=Path, default=None)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = [
        *(hidden_row(shape, dtype, options.rounds) for shape in HIDDEN for dtype in DTYPES),
        *(
            attention_row(shape, dtype, probability, options.rounds)
            for shape in ATTENTION
            for dtype in DTYPES
            for probability in (DROPOUT, 0.0)
        ),
        *(
            model_row(name, *batch, precision, options.rounds)
            for name in options.models
            for batch in BATCHES
            for precision in ("fp32", "bf16")
        ),
    ]
    record = {
        "machine": platform.machine(),
        "torch": torch.__version__,
        "threads": options.threads,
        "rounds": options.rounds,
        "rows": rows,
    }
    text = json.dumps(record, indent=1)
    print(text)
    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(text + "\n", encoding="utf-8")


def hidden_row(shape: tuple[int, ...], dtype: torch.dtype, rounds: int) -> dict[str, Any]:
    values = torch.randn(shape, dtype=dtype, requires_grad=True)
    upstream = torch.randn(shape, dtype=dtype)
    return {"what": "dropout", "shape": shape, "dtype": str(dtype).removeprefix("torch.")} | compared(
        lambda: dropout(values, DROPOUT).backward(upstream),
        lambda: functional.dropout(values, DROPOUT).backward(upstream),
        rounds,
    )


def attention_row(shape: tuple[int, ...], dtype: torch.dtype, probability: float, rounds: int) -> dict[str, Any]:
    """`shape`: (batch, heads, length, head size); a quarter of the keys of every other sequence is masked."""
    query, key, value = (torch.randn(shape, dtype=dtype, requires_grad=True) for _ in range(3))
    upstream = torch.randn(shape, dtype=dtype)
    mask = torch.ones(shape[0], 1, 1, shape[2], dtype=torch.bool)
    mask[::2, ..., -(shape[2] // 4) :] = False
    full = mask.expand(-1, -1, shape[2], -1)

    def torchs() -> None:
        functional.scaled_dot_product_attention(query, key, value, full, probability).backward(upstream)

    about = {"what": "attention", "shape": shape, "dtype": str(dtype).removeprefix("torch."), "dropout": probability}
    return (
        about
        | compared(
            lambda: lean_attention(AttentionInputs(query, key, shape[-1] ** -0.5, full), value, probability).backward(
                upstream
            ),
            torchs,
            rounds,
        )
        | {"ours_is_taken": is_leaner(value, probability)}
    )


def model_row(name: str, batch: int, length: int, precision: str, rounds: int) -> dict[str, Any]:
    layers, hidden, heads, inner = MODELS[name]
    config = transformers.BertConfig(
        vocab_size=1000,
        num_hidden_layers=layers,
        hidden_size=hidden,
        num_attention_heads=heads,
        intermediate_size=inner,
    )
    torch.manual_seed(0)
    model = transformers.BertModel(config, add_pooling_layer=False).train()
    ids = torch.randint(5, 1000, (batch, length))
    mask = torch.ones_like(ids)

    def passes() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state
        loss: Tensor = hidden.float().square().mean()
        loss.backward()
        model.zero_grad(set_to_none=True)

    def ours() -> None:
        with fast_training(torch.device("cpu")):
            passes()

    about = {"what": "BERT, forward and backward", "model": name, "batch": batch, "length": length}
    return about | {"precision": precision} | compared(ours, passes, rounds)


def compared(ours: Callable[[], Any], torchs: Callable[[], Any], rounds: int) -> dict[str, float]:
    """Median seconds of both, taken in turn after one of each that does not count."""
    found: dict[str, list[float]] = {"ours": [], "torch": []}
    for number in range(rounds + 1):
        for name, call in (("ours", ours), ("torch", torchs)):
            started = time.perf_counter()
            call()
            if number:
                found[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(seconds) for name, seconds in found.items()}
    return {f"{name}_ms": 1000 * seconds for name, seconds in medians.items()} | {
        "ratio": medians["ours"] / medians["torch"]
    }


if __name__ == "__main__":
    main()
