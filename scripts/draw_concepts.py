"""Draws the pictures of the concept pages, docs/img/*.svg.

    python scripts/draw_concepts.py                 # into docs/img
    python scripts/draw_concepts.py --output DIR    # elsewhere
    python scripts/draw_concepts.py --as png        # to look at them

A picture is boxes, grids of weights, arrows and texts on a canvas of inches. It is drawn anew byte for byte by the same
version of matplotlib.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

BLUE, RED, GREEN, ORANGE, SKY, GREY = "#0072B2", "#D55E00", "#009E73", "#E69F00", "#56B4E9", "#999999"
"""The colours of Okabe and Ito, which colour-blind readers can distinguish."""
_SCALE = 1.2  # of texts, so that they can be read on a phone
PALE, SMALL = "#F2F2F2", "#555555"


class Canvas:
    """A white canvas whose units are inches, with the origin at the lower left.

    Args:
        width, height: inches.
    """

    def __init__(self, width: float, height: float) -> None:
        from matplotlib.figure import Figure

        self.figure = Figure(figsize=(width, height), facecolor="white")
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set_xlim(0, width)
        self.axes.set_ylim(0, height)
        self.axes.axis("off")

    def box(self, x: float, y: float, width: float, height: float, text: str = "", **style: Any) -> None:
        """A box with rounded corners and a text in its middle; (x, y) is its lower left corner."""
        from matplotlib.patches import FancyBboxPatch

        colour, size = style.get("colour", GREY), style.get("size", 9)
        patch = FancyBboxPatch(
            (x, y),
            width,
            height,
            boxstyle="round,pad=0,rounding_size=0.06",
            facecolor=style.get("face", "white"),
            edgecolor=colour,
            linewidth=style.get("line", 1.3),
        )
        self.axes.add_patch(patch)
        self.text(x + width / 2, y + height / 2, text, size=size)

    def text(self, x: float, y: float, text: str, size: float = 9, **style: Any) -> None:
        """A text whose middle is at (x, y); `left=True`: its left end."""
        self.axes.text(
            x,
            y,
            text,
            ha="left" if style.get("left") else "center",
            va="center",
            fontsize=_SCALE * size,
            color=style.get("colour", "#222222"),
            weight=style.get("weight", "normal"),
            linespacing=1.25,
        )

    def arrow(self, start: tuple[float, float], end: tuple[float, float], colour: str = "#444444") -> None:
        self.axes.annotate(
            "", end, start, arrowprops={"arrowstyle": "-|>", "color": colour, "lw": 1.3, "shrinkA": 0, "shrinkB": 0}
        )

    def weights(self, x: float, y: float, side: float, marked: dict[int, str], rows: int = 6) -> None:
        """A square grid of `rows` by `rows` weights; those in `marked`, by number, have a colour."""
        from matplotlib.patches import Rectangle

        step = side / rows
        for number in range(rows * rows):
            row, column = divmod(number, rows)
            self.axes.add_patch(
                Rectangle(
                    (x + column * step, y + side - (row + 1) * step),
                    step,
                    step,
                    facecolor=marked.get(number, PALE),
                    edgecolor="white",
                    linewidth=0.9,
                )
            )


def module() -> Canvas:
    """A model with two modules in it."""
    canvas = Canvas(7.2, 3.0)
    language = dict.fromkeys((3, 10, 19, 26), BLUE)
    task = dict.fromkeys((7, 16, 23, 32), RED)
    columns: Sequence[tuple[float, dict[int, str], str, str]] = (
        (0.45, {}, "pre-trained model", "stays as it is"),
        (2.2, language, "language module", "learned from\nFaroese text"),
        (3.95, task, "task module", "learned from\nEnglish labels"),
        (5.7, language | task, "model with both", "tags Faroese"),
    )
    for x, marked, above, below in columns:
        canvas.text(x + 0.55, 2.55, above, weight="bold")
        canvas.weights(x, 1.15, 1.1, marked)
        canvas.text(x + 0.55, 0.85, below, size=8)
    for x, sign in ((1.87, "+"), (3.62, "+"), (5.37, "=")):
        canvas.text(x, 1.7, sign, size=16)
    canvas.text(3.6, 0.35, "Each square is a weight. A sparse delta changes only a few of them.", size=8, colour=SMALL)
    return canvas


def method() -> Canvas:
    """The two phases of LT-SFT."""
    canvas = Canvas(7.2, 3.1)
    moved = {
        number: SKY if number not in (4, 9, 20, 27) else BLUE for number in range(36) if number not in (0, 13, 22, 35)
    }
    chosen = dict.fromkeys((4, 9, 20, 27), BLUE)
    columns: Sequence[tuple[float, dict[int, str], str, str]] = (
        (0.3, {}, "pre-trained", "the starting point"),
        (2.05, moved, "1. dense phase", "all weights are trained;\nsome move far (dark)"),
        (3.8, dict.fromkeys(chosen, SKY), "select and reset", "those that moved furthest;\nall go back to the start"),
        (5.55, chosen, "2. sparse phase", "only the selected\nweights are trained"),
    )
    for x, marked, above, below in columns:
        canvas.text(x + 0.6, 2.75, above, weight="bold")
        canvas.weights(x, 1.3, 1.2, marked)
        canvas.text(x + 0.6, 0.92, below, size=8)
    for x in (1.56, 3.31, 5.06):
        canvas.arrow((x, 1.9), (x + 0.43, 1.9))
    canvas.text(3.6, 0.3, "module = weights at the end - pre-trained weights", size=9, colour=BLUE)
    return canvas


def mix() -> Canvas:
    """Five mixes, as the sources that training data come from."""
    canvas = Canvas(7.2, 3.5)
    english, target = (ORANGE, "gold\nEnglish"), (GREEN, "few gold\ntarget")
    translated, other = (SKY, "translated\ninto target"), (RED, "gold\nother language")
    rows = (
        ("zero-shot", (english,), "target language"),
        ("few-shot", (english, target), "target language"),
        ("translate-train", (translated,), "target language"),
        ("translate-test", (english,), "target, translated\ninto English"),
        ("multi-source", (english, other), "target language"),
    )
    canvas.text(0.25, 3.25, "mix", left=True, weight="bold")
    canvas.text(3.15, 3.25, "training", weight="bold")
    canvas.text(6.2, 3.25, "evaluation", weight="bold")
    for number, (name, sources, evaluated) in enumerate(rows):
        y = 2.5 - 0.6 * number
        canvas.text(0.25, y + 0.24, name, left=True)
        for place, (colour, text) in enumerate(sources):
            canvas.box(1.75 + 1.4 * place, y, 1.3, 0.48, text, colour=colour, size=8)
        canvas.arrow((4.6, y + 0.24), (5.3, y + 0.24))
        canvas.box(5.45, y, 1.5, 0.48, evaluated, size=8)
    return canvas


def identity() -> Canvas:
    """What a fingerprint is a hash of."""
    canvas = Canvas(7.2, 3.1)
    counted = (
        "settings in use",
        "content of the data",
        "base model's weights",
        "modules it needs",
        "training code",
        "seed",
    )
    for number, text in enumerate(counted):
        y = 2.55 - 0.43 * number
        canvas.box(0.25, y, 1.9, 0.34, text, colour=BLUE, size=8.5)
        canvas.arrow((2.2, y + 0.17), (3.05, 1.55))
    canvas.box(3.1, 1.2, 1.25, 0.7, "hash", colour=BLUE, size=10, line=1.8)
    canvas.arrow((4.4, 1.55), (4.9, 1.55))
    canvas.box(4.95, 1.2, 2.0, 0.7, "outputs/runs/\n4f1c09...", colour=GREEN, size=9, line=1.8)
    canvas.text(5.95, 2.45, "does not count:\nfolders, number of workers,\ntrackers, comments", size=8, colour=SMALL)
    canvas.text(5.95, 0.75, "there: used\nmissing: trained", size=8, colour=SMALL)
    return canvas


def table() -> Canvas:
    """From a table to cells, runs and back."""
    canvas = Canvas(7.2, 3.1)
    canvas.text(1.4, 2.8, "table: systems by languages", weight="bold")
    for row, name in enumerate(("LT-SFT", "MAD-X")):
        canvas.text(0.55, 1.95 - 0.5 * row, name, size=8.5)
        for column in range(3):
            canvas.box(0.98 + 0.62 * column, 1.74 - 0.5 * row, 0.56, 0.42, "±", colour=GREY, size=8)
    for column, name in enumerate(("eng", "fao", "hsb")):
        canvas.text(1.26 + 0.62 * column, 2.4, name, size=8.5)
    canvas.text(1.4, 0.9, "a cell: mean over seeds", size=8, colour=SMALL)
    canvas.text(3.95, 2.8, "plan: runs, each once", weight="bold")
    runs = [(f"language module {language}", BLUE) for language in ("eng", "fao", "hsb")] + [("task module", RED)]
    for number, (name, colour) in enumerate(runs):
        canvas.box(3.1, 2.2 - 0.44 * number, 1.7, 0.36, name, colour=colour, size=8)
    canvas.text(3.95, 0.62, "for each system and seed", size=8, colour=SMALL)
    canvas.text(6.15, 2.8, "store", weight="bold")
    canvas.box(5.5, 0.88, 1.35, 1.68, "outputs/runs\n\nfinished runs:\nmodule, scores,\nmanifest", colour=GREEN, size=8)
    canvas.arrow((2.82, 1.75), (3.05, 1.75))
    canvas.arrow((4.85, 1.75), (5.45, 1.75))
    canvas.axes.annotate(
        "",
        (1.4, 0.72),
        (6.15, 0.83),
        arrowprops={"arrowstyle": "-|>", "color": GREEN, "lw": 1.3, "connectionstyle": "angle3,angleA=12,angleB=90"},
    )
    canvas.text(3.9, 0.2, "scores; two tables share a run", size=8, colour=GREEN)
    return canvas


PICTURES: dict[str, Callable[[], Canvas]] = {
    "module": module,
    "method": method,
    "mix": mix,
    "identity": identity,
    "table": table,
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1] / "docs" / "img", help="folder")
    parser.add_argument("--as", dest="suffix", choices=("svg", "png"), default="svg", help="format; default: svg")
    given = parser.parse_args(arguments)

    import matplotlib

    given.output.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context({"svg.hashsalt": "xlt", "font.family": "DejaVu Sans", "savefig.dpi": 130}):
        for name, draw in PICTURES.items():
            metadata = {"Date": None} if given.suffix == "svg" else None
            draw().figure.savefig(given.output / f"{name}.{given.suffix}", metadata=metadata)


if __name__ == "__main__":
    main()
