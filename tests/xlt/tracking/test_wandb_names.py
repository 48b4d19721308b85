"""Names that W&B's own client accepts."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from xlt.errors import UsageError
from xlt.plan.planner import Run
from xlt.tracking.wandb_names import artifact_name, shortened

wandb = pytest.importorskip("wandb")


@pytest.mark.parametrize("stem", ["Fær öy", "язык", "a:b", "x" * 200, "ok-1_2.3"])
def test_the_client_accepts_the_name_of_every_module_file(stem: str) -> None:
    name = artifact_name(f"module-{stem}")
    assert wandb.Artifact(name, type="module").name == name
    assert (name == f"module-{stem}") == (stem == "ok-1_2.3")


def test_names_that_differ_only_in_refused_letters_stay_different() -> None:
    assert len({artifact_name(name) for name in ("é", "è", "-", "x" * 130, "x" * 131)}) == 5


def test_a_long_text_keeps_its_beginning_and_differs_from_others_with_the_same_beginning() -> None:
    assert shortened("short", 64) == "short"
    long = [shortened("x" * 70 + end, 64) for end in "ab"]
    assert len(set(long)) == 2 and all(len(text) == 64 and text.startswith("x" * 55) for text in long)


@pytest.mark.parametrize("word", ["tracker.project=a/b", "tracker.project=''", "tracker.entity='my team?'"])
def test_a_project_or_team_that_wandb_refuses_is_refused_before_the_run(
    word: str, make_run: Callable[..., Run]
) -> None:
    with pytest.raises(UsageError, match=rf"^{word.partition('=')[0]}=.*not a name that W&B accepts"):
        make_run(word)
