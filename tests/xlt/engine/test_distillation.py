"""Losses of distillation against Eq. 5.1 to 5.3 written out in float64, for each kind of task."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.tolerance import summation_tolerance
from tests.xlt.models.conftest import encoder_model
from xlt.engine.distillation import ATTENTION, HIDDEN, PREDICTION, Distillation, prediction_loss
from xlt.models.loading import whole_pretrained
from xlt.models.student import Widening, make_student
from xlt.models.transfer import TransferModel
from xlt.tasks.classification import Classification
from xlt.tasks.mlm import MaskedLanguageModelling
from xlt.tasks.parsing import Parsing
from xlt.tasks.question_answering import QuestionAnswering
from xlt.tasks.tagging import Tagging
from xlt.tasks.task import Decisions, Task

KEPT = torch.tensor([0, 1, 2, 3, 4, *range(8, 30)])
LENGTHS = [9, 4, 6]
TASKS: dict[str, Task] = {
    "tagging": Tagging("pos", "upos", ["a", "b", "c"], 16, 0.1, "accuracy"),
    "classification": Classification("nli", ["a", "b", "c"], False, 16, 0.1, "accuracy"),
    "parsing": Parsing(["root", "nsubj", "obj"], "greedy", 16, 0.1),
    "qa": QuestionAnswering("qa", 16, 4, 8, 4, "english"),
}


def _real() -> Tensor:
    return torch.arange(9) < torch.tensor(LENGTHS)[:, None]


def _batch(kind: str) -> dict[str, Tensor]:
    """Three rows of 9, 4 and 6 tokens, the first and last special; what the task's collate would make of them."""
    draw = torch.Generator().manual_seed(1)
    real = _real()
    batch = {"input_ids": torch.randint(5, len(KEPT), real.shape, generator=draw), "attention_mask": real.long()}
    inner = real.clone()
    inner[:, 0] = False
    inner[torch.arange(3), torch.tensor(LENGTHS) - 1] = False
    if kind == "tagging":
        batch["labels"] = torch.where(inner, torch.randint(3, real.shape, generator=draw), -100)
    elif kind == "classification":
        batch["labels"] = torch.tensor([0, 2, 1])
    elif kind == "parsing":
        number = torch.where(inner, inner.cumsum(1), -1)
        number[:, 0] = 0
        words = inner.sum(1)
        at = torch.arange(int(words.max()))
        heads = torch.where(at < words[:, None], torch.where(at == 0, 0, 1), -100)
        heads[0, 3] = -1  # its head is in another window: teaches nothing
        batch |= {"word": number, "heads": heads, "relations": torch.where(heads >= 0, heads.clamp(max=2), -100)}
    else:
        context = inner.long()
        context[:, 1] = 0
        batch |= {"context": context, "start": torch.tensor([2, 2, 0]), "end": torch.tensor([3, 2, 0])}
    return batch


def _set_dropout(model: Any, dropout: float) -> None:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = dropout
        if hasattr(module, "dropout_prob"):  # of attention, before transformers 5
            module.dropout_prob = dropout


def _pair(task: Task, layers: list[int], family: str = "bert", dropout: float = 0.0) -> tuple[Any, Any]:
    """Teacher and student in float64, heads drawn and not alike."""
    torch.manual_seed(2)
    teacher = encoder_model(family, dropout=dropout)
    student = make_student(teacher, layers, KEPT, copies=True, seed=1)
    for model in (teacher, student):
        model.head = task.head(16)
        if model.head is not None:
            for parameter in model.head.parameters():
                nn.init.normal_(parameter, std=0.3)
        _set_dropout(model, dropout)
        model.double()
    with torch.no_grad():
        for parameter in student.backbone.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return teacher.requires_grad_(False).eval(), student


def _given_out(model: TransferModel, ids: Tensor, mask: Tensor) -> Any:
    """Attention and hidden states as transformers gives them out."""
    whole = whole_pretrained(model).base_model
    whole.set_attn_implementation("eager")
    out = whole(input_ids=ids, attention_mask=mask, output_attentions=True, output_hidden_states=True)
    whole.set_attn_implementation("sdpa")
    return out


def _transcription(teacher: Any, student: Any, batch: dict[str, Tensor], stride: int) -> dict[str, Tensor]:
    """Eq. 5.1 and 5.2 as printed, a sequence at a time, on that sequence alone: (rows,) each."""
    found: dict[str, list[Tensor]] = {ATTENTION: [], HIDDEN: []}
    for row, length in enumerate(LENGTHS):
        ids, mask = batch["input_ids"][row : row + 1, :length], torch.ones(1, length, dtype=torch.long)
        ours, theirs = _given_out(student, ids, mask), _given_out(teacher, KEPT[ids], mask)
        layers = len(ours.attentions)
        attention = [
            functional.mse_loss(ours.attentions[i - 1], theirs.attentions[i * stride - 1]) for i in range(1, layers + 1)
        ]
        hidden = [
            functional.mse_loss(ours.hidden_states[i], theirs.hidden_states[i * stride]) for i in range(layers + 1)
        ]
        found[ATTENTION].append(sum(attention, torch.zeros(())) / layers)
        found[HIDDEN].append(sum(hidden, torch.zeros(())) / (layers + 1))
    return {name: torch.stack(parts) for name, parts in found.items()}


@pytest.mark.parametrize("family", ["bert", "xlm-roberta"])
@pytest.mark.parametrize("layers", [[1, 3], [3], [0, 1, 2, 3]])
def test_attention_and_hidden_losses_are_the_equations(family: str, layers: list[int]) -> None:
    task = MaskedLanguageModelling(16, 0.15, packing=False)
    teacher, student = _pair(task, layers, family)
    batch = _batch("classification")
    distillation = Distillation(task, teacher, len(layers), KEPT, [ATTENTION, HIDDEN])
    found = distillation.losses(student, batch)
    wanted = _transcription(teacher, student, batch, stride=4 // len(layers))
    for name, values in wanted.items():
        torch.testing.assert_close(found[name], values, rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(distillation.loss(student, batch), sum(wanted.values()).sum())
    assert distillation.targets(batch) == 3
    trained = [p for name, p in student.named_parameters() if name.startswith("backbone.") and "pooler" not in name]
    ours = torch.autograd.grad(distillation.loss(student, batch), trained)
    wanted_sum = sum(_transcription(teacher, student, batch, stride=4 // len(layers)).values()).sum()
    for one, other in zip(ours, torch.autograd.grad(wanted_sum, trained), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-12)


def test_deberta_whose_attention_has_no_fast_path_has_the_same_losses() -> None:
    task = MaskedLanguageModelling(16, 0.15, packing=False)
    teacher, student = _pair(task, [1, 3], "deberta-v2")
    batch = _batch("classification")
    found = Distillation(task, teacher, 2, KEPT, [ATTENTION, HIDDEN]).losses(student, batch)
    wanted = {ATTENTION: [], HIDDEN: []}
    real = _real()
    ids, mask = batch["input_ids"], batch["attention_mask"]
    options = {"attention_mask": mask, "output_attentions": True, "output_hidden_states": True}
    ours = whole_pretrained(student).base_model(input_ids=ids, **options)
    theirs = whole_pretrained(teacher).base_model(input_ids=KEPT[ids], **options)
    for row, length in enumerate(LENGTHS):
        pairs = [(ours.attentions[i], theirs.attentions[2 * i + 1]) for i in range(2)]
        maps = [functional.mse_loss(*(part[row, :, :length, :length] for part in pair)) for pair in pairs]
        wanted[ATTENTION].append(torch.stack(maps).mean())
        states = [(ours.hidden_states[i], theirs.hidden_states[2 * i]) for i in range(3)]
        wanted[HIDDEN].append(
            torch.stack([functional.mse_loss(*(part[row, :length] for part in pair)) for pair in states]).mean()
        )
    assert int(real.sum()) == sum(LENGTHS)
    for name, values in wanted.items():
        torch.testing.assert_close(found[name], torch.stack(values), rtol=1e-9, atol=1e-13)


def _label_distributions(kind: str, task: Any, model: Any, batch: dict[str, Tensor], row: int) -> list[list[Tensor]]:
    """Of one row, by kind of decision: the label distributions, from the task's head written out."""
    hidden = model.encode(batch["input_ids"], batch["attention_mask"])[row]
    if kind == "tagging":
        taught = batch["labels"][row] != -100
        return [[*functional.softmax(model.head.classifier(hidden[taught]), -1)]]
    if kind == "classification":
        inner = torch.tanh(model.head.dense(hidden[0]))
        return [[functional.softmax(model.head.classifier(inner), -1)]]
    if kind == "qa":
        allowed = batch["context"][row].bool()
        allowed[0] = True
        logits = model.head(hidden)[allowed]
        return [[functional.softmax(logits[:, part], -1)] for part in range(2)]
    word = batch["word"][row]
    heads = [head for head in batch["heads"][row].tolist() if head != -100]
    vectors = torch.stack([hidden[word == number].mean(0) for number in range(len(heads) + 1)])
    one = torch.ones(1, dtype=hidden.dtype)
    arcs, relations = [], []
    for number, head in enumerate(heads, start=1):
        if head < 0:
            continue
        x = torch.cat([vectors[number], one])
        others = [other for other in range(len(heads) + 1) if other != number]
        arcs.append(functional.softmax(torch.stack([x @ model.head.arcs @ vectors[other] for other in others]), -1))
        h = torch.cat([vectors[head], one])
        relations.append(functional.softmax(torch.stack([x @ v @ h for v in model.head.relations]), -1))
    return [arcs, relations]


@pytest.mark.parametrize("kind", TASKS)
def test_prediction_loss_is_the_equation_for_each_task(kind: str) -> None:
    task, batch = TASKS[kind], _batch(kind)
    teacher, student = _pair(task, [1, 3])
    distillation = Distillation(task, teacher, 2, KEPT, [ATTENTION, HIDDEN, PREDICTION])
    found = distillation.losses(student, batch)
    told = {**batch, "input_ids": KEPT[batch["input_ids"]]}
    wanted = []
    for row in range(3):
        ours = _label_distributions(kind, task, student, batch, row)
        theirs = _label_distributions(kind, task, teacher, told, row)
        kinds = [
            torch.stack([-(z_t * z_s.log()).sum() for z_s, z_t in zip(*pair, strict=True)]).mean()
            for pair in zip(ours, theirs, strict=True)
        ]
        wanted.append(torch.stack(kinds).sum() / (2 if kind == "qa" else 1))
    torch.testing.assert_close(found[PREDICTION], torch.stack(wanted), rtol=1e-9, atol=1e-12)
    transcription = _transcription(teacher, student, batch, stride=2)
    for name, values in transcription.items():
        torch.testing.assert_close(found[name], values, rtol=1e-9, atol=1e-13)
    assert (distillation.metric, distillation.greater_is_better) == (task.metric, task.greater_is_better)


@pytest.mark.parametrize("kind", TASKS)
def test_a_student_equal_to_its_teacher_has_no_loss_and_no_gradient(kind: str) -> None:
    """The cross-entropy is then the entropy of the teacher's distributions, and at its least: no gradient either."""
    task, batch = TASKS[kind], _batch(kind)
    teacher, _ = _pair(task, [1, 3])
    student = make_student(teacher, range(4), torch.arange(40), copies=True, seed=1).double()
    student.head = task.head(16).double()  # type: ignore[union-attr]
    student.head.load_state_dict(teacher.head.state_dict())
    _set_dropout(student, 0.0)
    distillation = Distillation(task, teacher, 4, torch.arange(40), [ATTENTION, HIDDEN, PREDICTION])
    found = distillation.losses(student, batch)
    assert not found[ATTENTION].any() and not found[HIDDEN].any()
    made = task.decisions(teacher, batch)
    torch.testing.assert_close(found[PREDICTION], prediction_loss(made, made, 3))
    trained = {name: p for name, p in student.named_parameters() if not name.startswith("lm_head.")}
    gradients = torch.autograd.grad(distillation.loss(student, batch), list(trained.values()), allow_unused=True)
    # Terms that are zero but for their rounding, summed over the positions and over 16 hidden entries.
    tolerance = summation_tolerance(sum(LENGTHS) * 16, torch.float64)
    for name, gradient in zip(trained, gradients, strict=True):
        assert gradient is None or gradient.abs().max() < tolerance, name


def test_cross_entropy_on_paper() -> None:
    """Teacher (3/4, 1/4), student even: log 2. A row without decisions has none; what is no choice plays no part."""
    teacher = Decisions(torch.tensor([[3.0, 1.0, 0.0]]).log(), torch.tensor([1]))
    student = Decisions(torch.tensor([[0.0, 0.0, -math.inf]], requires_grad=True), torch.tensor([1]))
    found = prediction_loss([student], [teacher], rows=2)
    torch.testing.assert_close(found, torch.tensor([0.0, math.log(2)]))
    (gradient,) = torch.autograd.grad(found.sum(), [student.logits])
    torch.testing.assert_close(gradient, torch.tensor([[-0.25, 0.25, 0.0]]))


def test_padding_changes_no_loss() -> None:
    task = MaskedLanguageModelling(16, 0.15, packing=False)
    teacher, student = _pair(task, [1, 3])
    distillation = Distillation(task, teacher, 2, KEPT, [ATTENTION, HIDDEN])
    batch = _batch("classification")
    short = {name: part[1:2, :4] for name, part in batch.items() if part.dim() > 1}
    whole = distillation.losses(student, batch)
    alone = distillation.losses(student, short)
    for name in whole:
        torch.testing.assert_close(whole[name][1:2], alone[name])


def test_a_narrow_student_is_compared_after_it_was_widened() -> None:
    task = MaskedLanguageModelling(16, 0.15, packing=False)
    teacher, _ = _pair(task, [1, 3])
    student = make_student(encoder_model("bert"), [1, 3], KEPT, copies=True, seed=1, hidden=8).double().eval()
    batch = _batch("classification")
    found = Distillation(task, teacher, 2, KEPT, [HIDDEN]).losses(student, batch)[HIDDEN]
    weight = student.head.weight
    wanted = []
    for row, length in enumerate(LENGTHS):
        ids, mask = batch["input_ids"][row : row + 1, :length], torch.ones(1, length, dtype=torch.long)
        ours, theirs = _given_out(student, ids, mask).hidden_states, _given_out(teacher, KEPT[ids], mask).hidden_states
        wanted.append(torch.stack([functional.mse_loss(ours[i] @ weight.T, theirs[2 * i]) for i in range(3)]).mean())
    torch.testing.assert_close(found, torch.stack(wanted), rtol=1e-9, atol=1e-13)
    (gradient,) = torch.autograd.grad(found.sum(), [weight])
    assert gradient.abs().max() > 0
    fixed = Distillation(task, teacher, 2, KEPT, [HIDDEN], Widening(2 * weight))
    assert not torch.allclose(fixed.losses(student, batch)[HIDDEN], found)


def test_the_general_stage_is_selected_by_its_loss_and_needs_no_head() -> None:
    task = MaskedLanguageModelling(16, 0.15, packing=False)
    teacher, student = _pair(task, [1, 3])
    teacher.lm_head = student.lm_head = None  # would fail if it were asked
    distillation = Distillation(task, teacher, 2, KEPT, [ATTENTION, HIDDEN])
    assert (distillation.metric, distillation.greater_is_better) == ("loss", False)
    batch = _batch("classification")
    scores = [distillation.score(student, batch, [{}] * 3)] * 2
    found = distillation.metrics(scores)
    wanted = {name: float(part.detach().mean()) for name, part in distillation.losses(student, batch).items()}
    assert found == pytest.approx({"loss": sum(wanted.values()), **wanted})


def test_the_teacher_learns_nothing_and_its_dropout_sleeps() -> None:
    task = TASKS["tagging"]
    teacher, student = _pair(task, [1, 3], dropout=0.5)
    _set_dropout(student, 0.0)
    distillation = Distillation(task, teacher, 2, KEPT, [ATTENTION, HIDDEN, PREDICTION])
    student.train()
    first, second = (float(distillation.loss(student, _batch("tagging")).detach()) for _ in range(2))
    assert first == second
    distillation.loss(student, _batch("tagging")).backward()
    assert all(p.grad is None for p in teacher.parameters())
