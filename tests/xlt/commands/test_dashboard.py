from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from xlt.commands import dashboard as command
from xlt.commands.dashboard import dashboard, main, workspace_of
from xlt.errors import UsageError
from xlt.tracking.workspace import WorkspacePanel, as_wandb, create, has_account

WORDS = ["table=quickstart", "tracker.project=languages", "tracker.entity=us"]


@pytest.fixture(autouse=True)
def _no_account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_BASE_URL", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


@pytest.fixture
def keyed(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    """Gives the user an account, and `create` something else to do."""

    def give(instead: Any) -> None:
        monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
        monkeypatch.setattr(command, "create", instead)

    return give


def test_without_an_account_all_that_would_be_created_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert dashboard(WORDS) == 0
    said = capsys.readouterr().out.splitlines()
    assert "no W&B account" in said[0]
    assert said[2] == "workspace 'xlt quickstart' in us/languages"
    assert said[3] == "  runs: tagged 'table:quickstart', grouped by job type; columns summary:best/accuracy"
    assert "    bars: fao accuracy [evaluation/fao/task/accuracy, evaluation/fao/task_with_language/accuracy]" in said
    assert "    lines: sparse: loss [sparse/loss] over sparse/step" in said
    assert said[4:6] == ["  section 'Scores', 12 panels", "    table: every evaluation [evaluation]"]


def test_each_phase_of_each_method_has_its_curves_and_language_modules_theirs() -> None:
    sections = workspace_of(WORDS).sections
    assert list(sections) == ["Scores", "Learning curves", "Learning curves of language modules"]
    of_tasks, of_languages = list(sections.values())[1:]
    assert {panel.x for panel in of_tasks} == {"train/step", "dense/step", "sparse/step"}
    assert (
        WorkspacePanel("lines", "sparse: validation/accuracy", ("sparse/validation/accuracy",), "sparse/step")
        in of_tasks
    )
    assert WorkspacePanel("lines", "dense: validation/loss", ("dense/validation/loss",), "dense/step") in of_languages


@pytest.mark.slow
def test_a_table_of_averages_has_the_panels_of_its_parts() -> None:
    workspace = workspace_of(["table=4.2"])
    titles = {panel.title for panel in workspace.sections["Scores"]}
    assert {"sme accuracy", "sme uas", "bam accuracy", "bam uas"} <= titles
    assert {title.split()[1] for title in titles if title.split()[0] != "every"} == {"accuracy", "uas", "las", "f1"}
    assert workspace.table == "transfer"
    assert workspace.columns == ["summary:best/accuracy", "summary:best/las", "summary:best/f1"]


@pytest.mark.parametrize("table", ["typology_importance", "spiel_ages", "instruct_curves", "figure_7_4"])
def test_a_table_without_columns_has_its_curves(table: str) -> None:
    sections = workspace_of([f"table={table}"]).sections
    assert next(iter(sections)) == "Learning curves" and "Scores" not in sections
    assert {panel.kind for panel in sections["Learning curves"]} == {"lines"}


def test_a_table_without_runs_is_one_line() -> None:
    with pytest.raises(UsageError, match=r"table=spiel_ages.*: .*no runs"):
        workspace_of(["table=spiel_ages", *(f"~table.parts.ages.systems.{name}" for name in ("spiel_ag", "spiel_ma"))])


def test_wandbs_own_object_says_the_same() -> None:
    pytest.importorskip("wandb_workspaces")
    workspace = workspace_of(WORDS)
    spec = as_wandb(workspace, "us")._to_model().model_dump(by_alias=True)
    text = str(spec)
    assert (spec["entity"], spec["project"], spec["displayName"]) == ("us", "languages", "xlt quickstart")
    panels = [panel for panels in workspace.sections.values() for panel in panels]
    shown = [panel for part in spec["spec"]["section"]["panelBankConfig"]["sections"] for panel in part["panels"]]
    assert len(shown) == len(panels)
    bars = next(panel for panel in shown if panel["config"].get("chartTitle") == "fao accuracy")
    assert bars["config"]["metrics"] == [f"evaluation/fao/{c}/accuracy" for c in ("task", "task_with_language")]
    assert (bars["config"]["groupAgg"], bars["config"]["groupArea"]) == ("mean", "stddev")
    assert {panel["config"].get("groupBy") for panel in shown} == {"systems.value.quickstart", None}  # the grid: none
    assert "{'section': 'run', 'name': 'tags'}, 'op': 'IN', 'value': ['table:quickstart']" in text and "jobType" in text


@pytest.mark.parametrize("where", ["environment", "netrc", "own server", "nowhere"])
def test_an_account_is_looked_for_where_wandb_leaves_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, where: str
) -> None:
    if where == "environment":
        monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    host = {"netrc": "api.wandb.ai", "own server": "wandb.our.org", "nowhere": "other.org"}.get(where)
    if where == "own server":
        monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.our.org:8080")
    if host is not None:
        (tmp_path / "netrc").write_text(f"machine {host}\n  login user\n  password {'k' * 40}\n")
        (tmp_path / "netrc").chmod(0o600)
    assert has_account() == (where != "nowhere")


def test_with_an_account_it_is_created_and_its_address_said(
    keyed: Callable[[Any], None], capsys: pytest.CaptureFixture[str]
) -> None:
    keyed(lambda workspace: f"https://there/{workspace.entity}/{workspace.project}")
    assert dashboard(WORDS) == 0
    assert capsys.readouterr().out == "https://there/us/languages\n"


def test_what_wandb_answers_is_one_line(keyed: Callable[[Any], None], capsys: pytest.CaptureFixture[str]) -> None:
    def unreachable(workspace: Any) -> str:
        raise ConnectionError("no\nroute")

    keyed(unreachable)
    assert dashboard(WORDS) == 1
    assert capsys.readouterr().err == "xlt: W&B: no route\n"


def test_without_its_client_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb_workspaces.workspaces", None)
    with pytest.raises(UsageError, match=r"not installed.*pip install 'xlt\[wandb\]'"):
        create(workspace_of(WORDS))


def test_a_refusal_of_wandbs_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")

    def refuse(*_: Any) -> None:
        raise wandb.errors.CommError("permission denied")

    monkeypatch.setattr("xlt.tracking.workspace.as_wandb", refuse)
    with pytest.raises(UsageError, match=r"W&B refused.*: permission denied"):
        create(workspace_of(WORDS))


def test_a_wrong_word_is_refused_and_no_word_gets_the_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["table=quickstart", "tracker.projekt=x"])
    assert stop.value.code == 2
    assert "did you mean tracker.project?" in capsys.readouterr().err
    assert dashboard([]) == 0
    assert capsys.readouterr().out.startswith("usage: xlt dashboard table=NAME")


def test_scores_with_another_languages_module_are_shown_beside_those_with_the_own_one() -> None:
    panels = workspace_of(["table=mad_g_nano", "tracker.project=p"]).sections["Scores"]
    metrics = next(panel.metrics for panel in panels if panel.title == "fao accuracy")
    assert any("(module of eng)" in name for name in metrics)
    assert any("task_with_language/" in name for name in metrics)
