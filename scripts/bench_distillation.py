"""Step time and peak memory of BiStil's first stage beside the obvious way with transformers.

    python scripts/bench_distillation.py --size mbert --rounds 5 --output bench_distillation.json
    python scripts/bench_distillation.py --size small          # runs anywhere

A step is the teacher's pass without gradient, the student's pass and its backward pass, and AdamW (fused) over all of
the student. Models have random weights, the same for all contenders. Sequences are random; half of them are padded,
to between a half and the whole length. Contenders:

    xlt         as the engine does it: fast attention, maps computed from queries and keys in the loss
    xlt_bf16    the same with the teacher's weights in bfloat16 (teacher.dtype=bfloat16)
    naive       `output_attentions=True, output_hidden_states=True` of both base models, masked mean squared errors
    naive_mlm   the same of the models with their language-model heads, as `AutoModelForMaskedLM` gives them

Before anything is timed, the losses and gradients of `xlt` and `naive` must agree. Steps are timed in turn (A B C,
B C A, ...) in this process; ratios are medians over the rounds of the ratio within the round. Memory is measured in a
process for each contender, during one step: the resident set's high-water mark (Linux), on a GPU what torch allocated;
"grown" is above what was in use when the step began.

What limits a step: with T teacher and S student layers of P parameters, 2 T P + 6 S P operations a token. The maps add
8 l d operations a token and compared layer for both models, a few per cent at 256 tokens. The naive way moves its maps
besides: heads x l x l floats a sequence and layer. The student's stay until the backward pass (three times: scores,
distribution, after dropout), the teacher's until the loss.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from benchmark.memory import RETURN_FREED_MEMORY, PeakMemory
from benchmark.process import in_own_process
from benchmark.report import CommandLine, machine, write_record
from benchmark.rounds import in_turn, ratios
from benchmark.shapes import ENCODERS, bert_config
from torch import Tensor
from torch.nn import functional
from transformers import BertForMaskedLM

from xlt.engine.distillation import ATTENTION, HIDDEN, Distillation
from xlt.models.cpu_training import fast_training
from xlt.models.loading import take_apart, whole_pretrained
from xlt.models.student import make_student
from xlt.models.transfer import TransferModel
from xlt.tasks.mlm import MaskedLanguageModelling

CONTENDERS = ("xlt", "xlt_bf16", "naive", "naive_mlm")
Batch = dict[str, Tensor]
Loss = Callable[[Batch], Tensor]
_STRIDE = 2
_KEPT_SHARE = 0.26  # thesis Table 5.2: 31K of mBERT's 120K
_WARM_UP = 1
# Relative; float32, the same terms in another order.
_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Setup:
    """What all contenders share."""

    size: str
    batch: int
    tokens: int
    device: str
    precision: str


def models(setup: Setup) -> tuple[TransferModel, TransferModel, Tensor]:
    """Teacher (frozen, in evaluation mode), student, and the teacher's ids of the student's tokens."""
    shape = bert_config(setup.size)
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


def make_batch(setup: Setup, tokens: int) -> Batch:
    """(batch, tokens) ids below `tokens`, and their attention mask."""
    draw = torch.Generator().manual_seed(2)
    ids = torch.randint(5, tokens, (setup.batch, setup.tokens), generator=draw)
    lengths = torch.full((setup.batch,), setup.tokens)
    padded = setup.batch // 2
    lengths[:padded] = torch.randint(setup.tokens // 2, setup.tokens + 1, (padded,), generator=draw)
    mask = (torch.arange(setup.tokens) < lengths[:, None]).long()
    return {name: tensor.to(setup.device) for name, tensor in {"input_ids": ids, "attention_mask": mask}.items()}


def our_loss(teacher: TransferModel, student: TransferModel, kept: Tensor) -> Loss:
    task = MaskedLanguageModelling(512, 0.15, packing=False)
    teacher.lm_head = None
    layers = int(student.backbone.config.num_hidden_layers)  # type: ignore[union-attr,arg-type]
    distillation = Distillation(task, teacher, layers, kept, [ATTENTION, HIDDEN])

    def loss(batch: Batch) -> Tensor:
        with fast_training(student.device):
            return distillation.loss(student, batch) / len(batch["input_ids"])

    return loss


def naive_loss(teacher: TransferModel, student: TransferModel, head: bool) -> Loss:
    """Thesis Eq. 5.1 and 5.2, written down directly.

    Args:
        head: whether the models have their language-model heads.
    """
    networks: list[Any] = [whole_pretrained(model) if head else model.backbone for model in (teacher, student)]
    for model in networks:
        model.set_attn_implementation("eager")  # the one that returns attention

    def loss(batch: Batch) -> Tensor:
        with torch.no_grad():
            target = networks[0](**batch, output_attentions=True, output_hidden_states=True)
        output = networks[1](**batch, output_attentions=True, output_hidden_states=True)
        mask = batch["attention_mask"].float()
        pairs = mask[:, None, :, None] * mask[:, None, None, :]
        attention = hidden = torch.zeros((), device=mask.device)
        layers = len(output.attentions)
        for i in range(layers):
            squares = functional.mse_loss(output.attentions[i], target.attentions[i * _STRIDE + 1], reduction="none")
            mean = (squares * pairs).sum((1, 2, 3)) / (squares.shape[1] * mask.sum(1) ** 2)
            attention = attention + mean.mean() / layers
        for i in range(layers + 1):
            squares = functional.mse_loss(output.hidden_states[i], target.hidden_states[i * _STRIDE], reduction="none")
            mean = (squares * mask[:, :, None]).sum((1, 2)) / (squares.shape[2] * mask.sum(1))
            hidden = hidden + mean.mean() / (layers + 1)
        return attention + hidden

    return loss


def build(contender: str, setup: Setup) -> tuple[Loss, TransferModel, Batch]:
    """The contender's loss, its student, and a batch."""
    teacher, student, kept = models(setup)
    batch = make_batch(setup, len(kept))
    if contender.startswith("xlt"):
        if contender == "xlt_bf16":
            teacher.to(torch.bfloat16)
        return our_loss(teacher, student, kept.to(setup.device)), student, batch
    return naive_loss(teacher, student, contender == "naive_mlm"), student, batch


def agree(setup: Setup) -> dict[str, float]:
    """Relative differences of loss and gradient between `xlt` and `naive`, without dropout.

    Raises:
        SystemExit: the two do not compute the same.
    """
    results = []
    for contender in ("xlt", "naive"):
        loss_function, student, batch = build(contender, setup)
        student.eval()
        loss = loss_function(batch)
        loss.backward()
        gradient = torch.cat([p.grad.flatten() for p in student.backbone.parameters() if p.grad is not None])
        results.append((float(loss.detach()), gradient))
    (loss_ours, gradient_ours), (loss_naive, gradient_naive) = results
    differences = {
        "loss": abs(loss_ours - loss_naive) / abs(loss_naive),
        "gradient": float((gradient_ours - gradient_naive).norm() / gradient_naive.norm()),
    }
    if setup.precision == "fp32" and max(differences.values()) > _TOLERANCE:
        raise SystemExit(f"bench_distillation.py: xlt and naive differ by more than {_TOLERANCE}: {differences}")
    return differences


def step_of(contender: str, setup: Setup) -> Callable[[], None]:
    """A function that trains for one step."""
    loss_function, student, batch = build(contender, setup)
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        with torch.autocast(setup.device, torch.bfloat16, enabled=setup.precision == "bf16"):
            loss = loss_function(batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def measure_memory(contender: str, setup: Setup) -> dict[str, float]:
    """Peak memory of the second step, when the optimiser has its moments already."""
    step = step_of(contender, setup)
    step()
    memory = PeakMemory(setup.device)
    step()
    return memory.record()


def show(contender: str, record: Mapping[str, Any], peer: str) -> None:
    used, reference = record["memory"][contender], record["memory"][peer]
    whole, grown = used["peak_mib"] / reference["peak_mib"], used["grown_mib"] / max(reference["grown_mib"], 1)
    time = f"time x{record['time_ratio'][contender]:.2f}"
    memory = f"memory x{whole:.2f} ({used['peak_mib']:.0f} MiB)"
    print(f"{contender:10} {time}  {memory}, of a step alone x{grown:.2f} ({used['grown_mib']:.0f} MiB)")


def main() -> None:
    line = CommandLine(__doc__, batch=8, tokens=256, rounds=3)
    line.add_argument("--size", choices=ENCODERS, default="small", help="of the teacher")
    line.add_argument("--systems", nargs="+", choices=CONTENDERS, default=list(CONTENDERS), help="the contenders")
    line.add_device()
    line.add_precision()
    options = line.parse_args()
    setup = Setup(options.size, options.batch, options.tokens, options.device, options.precision)
    threads = torch.get_num_threads()
    differences = agree(setup)
    memory = {
        name: in_own_process(measure_memory, name, setup, threads=threads, environment=RETURN_FREED_MEMORY)
        for name in options.systems
    }
    steps = {name: step_of(name, setup) for name in options.systems}
    seconds = in_turn(steps, options.rounds, warm_up=_WARM_UP, device=setup.device)
    peer = "naive" if "naive" in options.systems else options.systems[-1]
    record: dict[str, Any] = {
        **machine(setup.device),
        "setup": asdict(setup),
        "agreement": differences,
        "memory": memory,
        "seconds": seconds,
        "time_ratio": {name: statistics.median(ratios(seconds, name, peer)) for name in seconds},
    }
    print(f"{setup.size}, {setup.batch} x {setup.tokens}, {setup.precision}; beside {peer}")
    for name in options.systems:
        show(name, record, peer)
    write_record(record, options.output)


if __name__ == "__main__":
    main()
