"""Times what replaces torch's dropout and attention while a model trains on a CPU.

    python scripts/bench_dropout.py --output outputs/bench/dropout.json

Three things are timed, forward and backward pass together: dropout of hidden states; attention, with dropout and
without; and a training step's passes through a BERT with random weights and dropout 0.1, with `fast_training` and
without. Ours and torch's take turns; the record has medians over `--rounds`. Ratios are ours to torch's: below 1, ours
is faster.

What limits them: torch draws dropout one entry after another on one core, some 5 ns each; ours reads and writes each
tensor once or twice. Torch's attention with dropout writes scores, distribution, mask and their product to memory, each
batch x heads x length x length; ours keeps one byte an entry, and computes the distribution twice in the cache.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch
from benchmark.report import CommandLine, machine, settings, write_record
from benchmark.rounds import in_turn
from benchmark.shapes import bert_config
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
MODELS = {"12x384": "mini", "12x768": "mbert"}  # layers x hidden size -> size of the encoder
VOCABULARY = 1000
BATCHES = ((32, 64), (12, 256))


def hidden_row(shape: tuple[int, ...], dtype: torch.dtype, rounds: int) -> dict[str, Any]:
    values = torch.randn(shape, dtype=dtype, requires_grad=True)
    upstream = torch.randn(shape, dtype=dtype)
    return {"what": "dropout", "shape": shape, "dtype": str(dtype).removeprefix("torch.")} | compare(
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
    inputs = AttentionInputs(query, key, shape[-1] ** -0.5, full)

    def ours() -> None:
        lean_attention(inputs, value, probability).backward(upstream)

    def torchs() -> None:
        functional.scaled_dot_product_attention(query, key, value, full, probability).backward(upstream)

    about = {"what": "attention", "shape": shape, "dtype": str(dtype).removeprefix("torch."), "dropout": probability}
    return about | compare(ours, torchs, rounds) | {"ours_is_taken": is_leaner(value, probability)}


def model_row(name: str, batch: int, length: int, precision: str, rounds: int) -> dict[str, Any]:
    from transformers import BertModel

    torch.manual_seed(0)
    model = BertModel(bert_config(MODELS[name], vocab_size=VOCABULARY), add_pooling_layer=False).train()
    ids = torch.randint(5, VOCABULARY, (batch, length))
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
    return about | {"precision": precision} | compare(ours, passes, rounds)


def compare(ours: Callable[[], Any], torchs: Callable[[], Any], rounds: int) -> dict[str, float]:
    """Median milliseconds of both, and the ratio of ours to torch's."""
    seconds = in_turn({"ours": ours, "torch": torchs}, rounds)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    times = {f"{name}_ms": 1000 * median for name, median in medians.items()}
    return times | {"ratio": medians["ours"] / medians["torch"]}


def main() -> None:
    line = CommandLine(__doc__, threads=1, rounds=7)
    line.add_argument(
        "--models", nargs="*", choices=MODELS, default=["12x384"], help="layers x hidden size of the BERT"
    )
    options = line.parse_args()
    torch.set_num_threads(options.threads)
    rounds = options.rounds
    rows = [hidden_row(shape, dtype, rounds) for shape in HIDDEN for dtype in DTYPES]
    rows += [
        attention_row(shape, dtype, probability, rounds)
        for shape in ATTENTION
        for dtype in DTYPES
        for probability in (DROPOUT, 0.0)
    ]
    rows += [
        model_row(name, *batch, precision, rounds)
        for name in options.models
        for batch in BATCHES
        for precision in ("fp32", "bf16")
    ]
    write_record({**machine(), **settings(options, "models"), "rows": rows}, options.output, prints=True)


if __name__ == "__main__":
    main()
