"""The page in a real browser, headless; skipped where there is none."""

from __future__ import annotations

import html
import io
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageStat

from xlt.plan.planner import Run
from xlt.tables.table import Grid

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium on the PATH; apt-get install chromium")

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars"),
)
LIGHT, DARK = ("--blink-settings=preferredColorScheme=1",), ("--blink-settings=preferredColorScheme=0",)
# What a reader would do, and what the page was like then; the answer is left in the document around it.
ASK = """
<script>
  const seen = { width: innerWidth, overflow: document.documentElement.scrollWidth - innerWidth,
                 ready: "ready" in root.dataset, paper: getComputedStyle(document.body).backgroundColor,
                 systems: [...document.querySelectorAll(".system")].map((e) => e.getBoundingClientRect().left),
                 letters: Math.min(...[...document.querySelectorAll("svg text")].map((e) =>
                   parseFloat(getComputedStyle(e).fontSize) * e.getCTM().a)),
                 scrolling: [...document.querySelectorAll(".scroll")].some((e) => e.scrollWidth > e.clientWidth) };
  const chart = document.querySelector(".chart svg");
  chart.focus();
  chart.dispatchEvent(new KeyboardEvent("keydown", { key: "End" }));
  seen.readout = chart.parentElement.querySelector(".readout").textContent;
  chart.dispatchEvent(new KeyboardEvent("keydown", { key: "Escape" }));
  seen.restored = chart.parentElement.querySelector(".readout").textContent;
  seen.focusable = [...document.querySelectorAll(".scroll, .chart svg")].every((e) => e.tabIndex === 0);
  search.value = "bxr nothing"; search.dispatchEvent(new Event("input"));
  seen.found = [...document.querySelectorAll(".plan tbody tr")].filter((row) => !row.hidden).length;
  search.value = ""; search.dispatchEvent(new Event("input"));
  document.getElementById("theme").click();
  seen.toggled = getComputedStyle(document.body).backgroundColor;
  parent.document.body.dataset.seen = JSON.stringify(seen);
</script>
"""


@pytest.fixture
def browse(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`browse(file, *flags)`: opens a file; what it says on its console is on standard error."""
    count = iter(range(99))

    def call(file: Path, *flags: str) -> subprocess.CompletedProcess[str]:
        own = (f"--user-data-dir={tmp_path / f'browser-{next(count)}'}", "--enable-logging=stderr")
        command = [str(BROWSER), *FLAGS, *own, *flags, f"file://{file}"]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)

    return call


@pytest.fixture
def page(
    page_of: Callable[..., str],
    make_grid: Callable[..., Grid],
    planned: Callable[..., Run],
    words: tuple[str, ...],
    leave: Callable[..., None],
    tmp_path: Path,
) -> Path:
    """A table's page with every part; one label is a long word that must not widen it."""
    run = planned(*words, "language_modules=none")
    leave(run, (90.0, 50.0))
    failed = planned(*words, "language_modules=none", "seed=2")
    page_of(
        [run, failed],
        grid=make_grid("Adapter TTRAIN-SINGLE (id)"),
        failures={failed.fingerprint: "x" * 300},
        names={run.fingerprint: "y" * 90},
    )
    return tmp_path / "outputs" / "tables" / "t.html"


def _seen(browse: Callable[..., Any], page: Path, *flags: str, width: int = 1280) -> dict[str, Any]:
    """The answer of the page in a frame, which may be narrower than the browser's narrowest window."""
    asking = html.escape(page.read_text(encoding="utf-8").replace("</body>", ASK + "</body>"))
    around = page.with_name("around.html")
    around.write_text(f'<!doctype html><body><iframe width="{width}" height="844" frameborder="0" srcdoc="{asking}">')
    done = browse(around, "--dump-dom", "--window-size=1400,900", *flags)
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
    (answer,) = re.findall(r'<body data-seen="([^"]+)"', done.stdout)
    return json.loads(html.unescape(answer))


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_fits_a_phone_and_a_laptop_and_its_script_runs(
    browse: Callable[..., Any], page: Path, width: int
) -> None:
    seen = _seen(browse, page, *LIGHT, width=width)
    assert seen["ready"] and seen["width"] == width
    assert seen["overflow"] <= 0
    assert seen["letters"] >= 10.5, "px on the screen"
    assert seen["scrolling"] == (width == 390)  # wide tables scroll in their own container
    assert len(seen["systems"]) == 2 and min(seen["systems"]) >= 0  # no label is cut off


def test_the_reader_gets_along_with_a_keyboard(browse: Callable[..., Any], page: Path) -> None:
    seen = _seen(browse, page, *LIGHT)
    assert seen["focusable"] and seen["found"] == 0
    assert seen["readout"] == "90.0 at step 70" and seen["restored"] == "best 90.0"


def test_light_and_dark_follow_the_system_and_the_button(browse: Callable[..., Any], page: Path) -> None:
    light, dark = _seen(browse, page, *LIGHT), _seen(browse, page, *DARK)
    assert light["paper"] == dark["toggled"] == "rgb(255, 255, 255)"
    assert dark["paper"] == light["toggled"] == "rgb(22, 22, 21)"


def test_light_and_dark_look_different(browse: Callable[..., Any], page: Path, tmp_path: Path) -> None:
    brightness = []
    for name, flags in (("light", LIGHT), ("dark", DARK)):
        browse(page, f"--screenshot={tmp_path / name}.png", "--window-size=800,900", *flags)
        picture = Image.open(io.BytesIO((tmp_path / f"{name}.png").read_bytes())).convert("L")
        assert picture.size == (800, 900)
        brightness.append(ImageStat.Stat(picture).mean[0])
        assert ImageStat.Stat(picture).stddev[0] > 5  # there is something on it
    assert brightness[0] > 200 and brightness[1] < 60


def test_an_error_of_the_script_would_be_noticed(browse: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "broken.html").write_text("<!doctype html><script>nothing.there()</script>")
    assert "CONSOLE" in browse(tmp_path / "broken.html", "--dump-dom").stderr
