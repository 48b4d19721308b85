"""Students: which layers and tokens they keep, and that each tensor is its teacher's."""

from __future__ import annotations

import re

import pytest
import torch

from tests.xlt.models.conftest import encoder_model
from xlt.errors import UsageError
from xlt.models.loading import whole_pretrained
from xlt.models.student import Widening, counterpart, kept_blocks, make_student

KEPT = torch.tensor([0, 1, 2, 3, 4, 7, 11, 12, 30, 39])


@pytest.mark.parametrize(
    ("layers", "reduction", "wanted"),
    [(12, 2, [1, 3, 5, 7, 9, 11]), (12, 3, [2, 5, 8, 11]), (12, 1, [*range(12)]), (4, 4, [3])],
)
def test_blocks_are_those_whose_number_is_a_multiple_of_the_stride(
    layers: int, reduction: int, wanted: list[int]
) -> None:
    assert kept_blocks(layers, reduction) == wanted


def test_a_reduction_that_does_not_divide_the_layers_is_refused() -> None:
    with pytest.raises(
        UsageError, match=r"layer_reduction=5: the teacher has 12 layers; must be one of 1, 2, 3, 4, 6, 12"
    ):
        kept_blocks(12, 5)


def test_each_matrix_of_the_student_is_its_teachers(family: str) -> None:
    teacher = encoder_model(family)
    student = make_student(teacher, [1, 3], KEPT, copies=True, seed=1)
    theirs = whole_pretrained(teacher).state_dict()
    ours = whole_pretrained(student).state_dict()
    of_blocks = 0
    for name, tensor in ours.items():
        numbers = re.findall(r"layer\.(\d+)\.", name)
        source = name.replace("layer.0.", "layer.1.") if numbers == ["0"] else name.replace("layer.1.", "layer.3.")
        value = theirs[source if numbers else name]
        of_blocks += bool(numbers)
        assert torch.equal(tensor, value[KEPT] if value.shape[:1] == (40,) else value), name
    assert of_blocks == 2 * sum(".layer.0." in name for name in theirs)
    assert (student.vocabulary, student.backbone.config.num_hidden_layers) == (10, 2)


def test_a_student_of_all_computes_what_its_teacher_does(family: str) -> None:
    teacher = encoder_model(family).eval().double()
    student = make_student(teacher, range(4), torch.arange(40), copies=True, seed=1).double()
    ids = torch.randint(5, 40, (2, 7), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    assert torch.equal(student.encode(ids, mask), teacher.encode(ids, mask))
    hidden = teacher.encode(ids, mask)
    torch.testing.assert_close(student.language_model_logits(hidden), teacher.language_model_logits(hidden))


def test_fewer_tokens_give_the_same_states_and_the_logits_of_those_kept(family: str) -> None:
    teacher = encoder_model(family).eval().double()
    student = make_student(teacher, range(4), KEPT, copies=True, seed=1).double()
    ids = torch.tensor([[0, 5, 9, 7, 6, 2], [0, 8, 8, 5, 2, 4]])
    mask = torch.ones_like(ids)
    assert torch.equal(student.encode(ids, mask), teacher.encode(KEPT[ids], mask))
    hidden = teacher.encode(KEPT[ids], mask)
    wanted = teacher.language_model_logits(hidden)[..., KEPT]
    torch.testing.assert_close(student.language_model_logits(hidden), wanted)


def test_a_student_from_scratch_has_the_shape_and_none_of_the_values(family: str) -> None:
    teacher = encoder_model(family)
    copied, fresh, again = (
        make_student(teacher, [1, 3], KEPT, copies=copies, seed=3) for copies in (True, False, False)
    )
    shapes = [{name: p.shape for name, p in model.named_parameters()} for model in (copied, fresh)]
    assert shapes[0] == shapes[1]
    matrices = [name for name, p in copied.named_parameters() if p.dim() > 1]
    same = [n for n in matrices if torch.equal(copied.get_parameter(n), fresh.get_parameter(n))]
    assert not same
    assert fresh.base_hash == again.base_hash != copied.base_hash


def test_a_narrow_student_has_its_width_and_a_way_back_to_the_teachers() -> None:
    teacher = encoder_model("bert").eval()
    student = make_student(teacher, [1, 3], KEPT, copies=True, seed=1, hidden=8)
    shape = student.backbone.config
    assert (shape.hidden_size, shape.intermediate_size, shape.num_attention_heads) == (8, 16, 2)
    ids = torch.tensor([[0, 5, 9, 7]])
    states = student.encode(ids, torch.ones_like(ids))
    assert isinstance(student.head, Widening) and student.head(states).shape == (1, 4, 16)
    assert student.language_model_logits(states).shape == (1, 4, 10)
    embeddings = teacher.backbone.embeddings.word_embeddings.weight[KEPT]  # type: ignore[union-attr]
    narrow = student.backbone.embeddings.word_embeddings.weight  # type: ignore[union-attr]
    torch.testing.assert_close(narrow, embeddings @ student.head.weight)


@pytest.mark.parametrize(("family", "hidden"), [("bert", 7), ("bert", 16)])
def test_a_width_that_does_not_fit_is_refused(family: str, hidden: int) -> None:
    with pytest.raises(UsageError, match=rf"hidden_size={hidden}: .*\b16\b.*\b2\b"):
        make_student(encoder_model(family), [1, 3], KEPT, copies=True, seed=1, hidden=hidden)


def test_a_family_with_other_names_is_not_narrowed() -> None:
    with pytest.raises(UsageError, match=r"hidden_size.*BERT"):
        make_student(encoder_model("deberta-v2"), [1, 3], KEPT, copies=True, seed=1, hidden=8)


def test_the_teacher_stays_as_it_was(family: str) -> None:
    teacher = encoder_model(family)
    before = {name: p.clone() for name, p in teacher.named_parameters()}
    student = make_student(teacher, [1, 3], KEPT, copies=True, seed=1)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(1)
    assert all(torch.equal(before[name], p) for name, p in teacher.named_parameters())
    assert teacher.backbone.config.num_hidden_layers == 4


def test_a_vocabulary_without_the_padding_token_is_refused() -> None:
    with pytest.raises(UsageError, match="pad_token_id=1"):
        make_student(encoder_model("xlm-roberta"), [1, 3], torch.tensor([0, 2, 3]), copies=True, seed=1)


def test_names_of_blocks_are_renumbered_and_no_others() -> None:
    assert counterpart("bert.encoder.layer.1.output.dense.weight", "bert.encoder.layer", [2, 5]) == (
        "bert.encoder.layer.5.output.dense.weight"
    )
    assert counterpart("cls.layer.1.weight", "bert.encoder.layer", [2, 5]) == "cls.layer.1.weight"
