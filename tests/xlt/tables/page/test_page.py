from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from xlt.plan.planner import Plan, Run
from xlt.tables.page.curves import round_bounds
from xlt.tables.page.markup import joined, tag
from xlt.tables.table import Grid

WILD = """<script>alert("x")</script>&'"""


class _Reader(HTMLParser):
    """All links, ids and text of a page, and whether its elements are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: list[str] = []
        self.external: list[str] = []
        self.words = ""
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        if name not in ("meta", "link", "input"):
            self.open.append(name)
        for key, value in attributes:
            if name == "a" and key == "href":
                self.links.append(str(value))
            if key == "id":
                self.ids.append(str(value))
            if key in ("src", "href", "srcset", "data") and re.match(r"\w+:|//", str(value)) and value != "data:,":
                self.external.append(str(value))

    def handle_endtag(self, name: str) -> None:
        assert self.open.pop() == name

    def handle_data(self, data: str) -> None:
        self.words += data + " "


def _visible(text: str) -> str:
    """What a reader sees, without style and script."""
    return " ".join(_Reader(re.sub(r"<(style|script)>.*?</\1>", "", text, flags=re.DOTALL)).words.split())


@pytest.fixture
def three(planned: Callable[..., Run], adapted: tuple[str, ...], leave: Callable[..., None], plan: Plan) -> list[Run]:
    """Runs of three seeds on one language module: done, failed, missing. Their label asks to be escaped."""
    runs = [planned(*adapted, f"seed={seed}", f"experiment_name='{WILD[:8]}'") for seed in (1, 2, 3)]
    for run in plan.runs.values():
        if run.config.language is not None:
            leave(run)
    leave(runs[0], (90.0, 91.0, 50.0, 40.0))
    return runs


def test_a_table_has_mean_spread_and_published_number_with_the_best_in_bold(
    page_of: Callable[..., str], make_grid: Callable[..., Grid]
) -> None:
    text = page_of([], grid=make_grid())
    assert "LT-SFT 61.0 ±1.4 73.8 61.0 ±1.4 87.9" in _visible(text)
    assert '<b class="ours">61.0</b>' in text and '<span class="ours">50.0</span>' in text
    assert "mean ± standard deviation over 2 seeds; second line: Table 1" in text
    assert "BitFit, seed 2: out of memory" in text and "a note" in text
    assert "LT-SFT fao 60.00 62.00 aaaaaaa bbbbbbb" in _visible(text)
    assert 'aria-label="Averages: LT-SFT 61.0, published 73.8; BitFit 50.0"' in text


def test_each_line_of_a_note_is_a_paragraph(page_of: Callable[..., str], make_grid: Callable[..., Grid]) -> None:
    grid = make_grid(note="Asked for with a=b\nEnglish is the source.")
    assert '<p class="note">Asked for with a=b</p><p class="note">English' in page_of([], grid=grid)


def test_everything_that_is_not_ours_is_escaped(
    page_of: Callable[..., str], make_grid: Callable[..., Grid], three: list[Run]
) -> None:
    text = page_of(three, grid=make_grid(WILD, WILD), failures={three[1].fingerprint: WILD})
    assert text.count("<script>") == 1 and WILD not in text
    assert "<title>A &lt;table&gt;</title>" in text
    assert _visible(text).count(WILD) >= 4  # system, note, reason
    assert tag("a", WILD, href=WILD) == tag("a", joined(WILD), href=WILD)
    assert re.search(r'"[^"]*[<>][^"]*"', tag("a", "", href=WILD)) is None


def test_nothing_is_asked_of_the_network(page_of: Callable[..., str], three: list[Run]) -> None:
    text = page_of(three)
    assert _Reader(text).external == []
    assert "default-src &#x27;none&#x27;" in text
    assert "@import" not in text and "url(" not in text and "fetch(" not in text


def test_a_run_is_shown_with_its_state_and_the_reason(page_of: Callable[..., str], three: list[Run]) -> None:
    seen = _visible(page_of(three, failures={three[1].fingerprint: "the loss is nan"}))
    assert "● 3 exist ✕ 1 failed ○ 1 missing" in seen
    assert "✕ failed: the loss is nan" in seen and "○ missing" in seen


def test_a_failure_of_an_earlier_sitting_and_a_half_finished_run_are_shown_too(
    page_of: Callable[..., str], three: list[Run], plan: Plan, leave: Callable[..., None]
) -> None:
    plan.store.folder(three[1].fingerprint).mkdir()
    plan.store.record_failure(three[1].fingerprint, "no luck")
    leave(three[2], (90.0,))
    seen = _visible(page_of(three))
    assert "✕ failed: no luck" in seen and "◐ 3 evaluations missing" in seen


def test_a_run_that_is_done_is_not_failed_by_an_old_failure(
    page_of: Callable[..., str], three: list[Run], plan: Plan
) -> None:
    plan.store.record_failure(three[0].fingerprint, "its process died")
    assert "● 3 exist ○ 2 missing" in _visible(page_of(three))
    assert "✕ failed" in _visible(page_of(three, failures={three[0].fingerprint: "out of memory"}))


def test_all_that_the_runs_and_their_evaluations_stand_on_is_in_the_plan_and_nothing_else(
    page_of: Callable[..., str], three: list[Run], planned: Callable[..., Run], words: tuple[str, ...], plan: Plan
) -> None:
    stranger = planned(*words, "method=bitfit")
    reader = _Reader(page_of(three[:1]))
    rows = {name for name in reader.ids if name.startswith("run-")}
    languages = [run for run in plan.runs.values() if run.config.language is not None]
    assert len(languages) == 2  # English in training, Faroese in evaluation alone
    assert rows == {f"run-{run.fingerprint[:12]}" for run in [three[0], *languages]}
    assert f"run-{stranger.fingerprint[:12]}" not in rows
    assert {link[1:] for link in reader.links if link.startswith("#")} <= set(reader.ids)


def test_links_lead_from_the_page_to_files_that_are_there(
    page_of: Callable[..., str], three: list[Run], tmp_path: Path, plan: Plan
) -> None:
    links = [link for link in _Reader(page_of(three)).links if not link.startswith("#")]
    files = [(tmp_path / "outputs" / "tables" / unquote(link)).resolve() for link in links]
    assert all(file.is_file() for file in files) and not any(Path(link).is_absolute() for link in links)
    folder = plan.store.folder(three[0].fingerprint).resolve()
    names = {file.name for file in files if file.parent == folder}
    assert names == {"manifest.json", "metrics.jsonl", "result.json", "evaluation.json", "module.safetensors"}


def test_curves_have_their_phases_side_by_side_and_mark_the_kept_checkpoint(
    page_of: Callable[..., str], three: list[Run]
) -> None:
    text = page_of(three)
    card = text[text.index('<article class="card">') : text.index("</article>")]
    assert card.count("<polyline") == 3  # validation of the second phase, losses of both
    assert card.count('class="phase">dense<') == card.count('class="phase">sparse<') == 2
    assert 'aria-label="validation accuracy over 80 steps, from 70 to 90, best 90.0"' in card
    assert card.count('class="best"') == 1
    losses = re.findall(r'points="([\d., ]+)"', card)[1:]
    ends = [float(line.split()[place].split(",")[0]) for line in losses for place in (0, -1)]
    assert ends == sorted(ends) and len(set(ends)) == 4  # the second begins where the first ended


def test_a_sweep_has_a_row_a_run_named_by_what_was_swept(
    page_of: Callable[..., str],
    planned: Callable[..., Run],
    words: tuple[str, ...],
    leave: Callable[..., None],
) -> None:
    sparse = [planned(*words, "language_modules=none", f"method.density={d}") for d in (0.02, 0.08)]
    leave(sparse[0], (80.0, 40.0))
    leave(sparse[1], (82.0, 30.0))
    seen = _visible(page_of(sparse))
    assert "accuracy; modules: task run best validation avg eng fao" in seen
    assert re.search(r"method.density=0.02\S*( \S+=\S+)* 90.0 60.0 80.0 40.0", seen)
    text = page_of(sparse, names={sparse[0].fingerprint: "density=0.02", sparse[1].fingerprint: "density=0.08"})
    assert "density=0.08 90.0 56.0 82.0 30.0" in _visible(text)
    assert re.findall(r'class="best(?: average)?">([\d.]+)<', text) == ["60.0", "40.0", "82.0"]


def test_rows_say_in_what_they_differ(
    page_of: Callable[..., str],
    planned: Callable[..., Run],
    adapted: tuple[str, ...],
    leave: Callable[..., None],
) -> None:
    run = planned(*adapted)
    leave(run, (80.0, 40.0, 70.0, 50.0))
    seen = _visible(page_of([run]))
    assert "Scores accuracy run best validation modules avg eng fao" in seen
    assert "90.0 task+language" in seen and "90.0 task " in seen


def test_a_page_of_runs_none_of_which_has_begun_says_so(
    page_of: Callable[..., str], planned: Callable[..., Run], words: tuple[str, ...]
) -> None:
    seen = _visible(page_of([planned(*words)]))
    assert "No run has metrics yet." in seen and "○ 1 missing" in seen


@pytest.mark.parametrize(
    ("low", "high", "bounds"),
    [(0.17, 2.9, (0, 4)), (92.8, 95.1, (92, 96)), (5.0, 5.0, (4, 6)), (0.0, 0.0, (0, 0.5)), (-3, 7, (-5, 10))],
)
def test_axes_end_at_round_numbers(low: float, high: float, bounds: tuple[float, float]) -> None:
    first, last, ticks = round_bounds(low, high)
    assert first <= low and last >= high and last > first
    assert (ticks[0], ticks[-1]) == (first, last) and 2 <= len(ticks) <= 5


def test_markup_leaves_out_what_is_none_and_false() -> None:
    assert (
        tag("b", None, "a", class_=None, hidden=True, open=False, stroke_width=2) == '<b hidden stroke-width="2">a</b>'
    )
    assert tag("input", type="search") == '<input type="search">'
    assert tag("circle", r=1) == '<circle r="1"></circle>'


def test_kept_predictions_are_a_click_away(
    page_of: Callable[..., str], make_grid: Callable[..., Grid], three: list[Run], plan: Plan, tmp_path: Path
) -> None:
    run = three[0]
    assert "predictions" not in page_of([run]) + page_of([run], grid=make_grid())
    key = next(iter(run.evaluations))
    plan.store.keep_predictions(run.fingerprint, key, [{"gold": "a", "predicted": "b"}])
    file = plan.store.predictions_file(run.fingerprint, key)
    of_sweep = _Reader(page_of([run])).links
    grid = make_grid()
    grid.cells["ours"]["fao"].predictions.append(file)
    of_table = page_of([run], grid=grid)
    for links in (of_sweep, _Reader(of_table).links):
        (link,) = {unquote(link) for link in links if "predictions" in link}
        assert (tmp_path / "outputs" / "tables" / link).samefile(file)
    assert "values runs predictions" in _visible(of_table)
