"""Small data in the format of XTREME-UP's archive: JSON lines in TASK/SPLIT/LANGUAGE.jsonl."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

CONF = Path(__file__).parents[1] / "conf"
# Languages whose code in the archive is that of ISO 639-3, so that no source lists them.
OWN_CODES = {
    "qa_cross_lang": ("bho", "brx", "gbm", "gom", "hne", "mai", "mni", "mwr"),
    "ner": ("bbj", "luo", "mos", "pcm"),
}
TASKS = ("semantic_parsing", "qa_in_lang", "qa_cross_lang", "ner", "translation")
SPLITS = ("train", "validation", "test")


def write_xtreme_up(data_dir: Path, examples: int = 2, codes: Iterable[str] | None = None) -> Path:
    """Writes a few examples of each task in all languages that the configs read, or in some; returns the folder."""
    wanted = None if codes is None else set(codes)
    for task in TASKS:
        of_codes = "qa_in_lang" if task == "qa_cross_lang" else task
        listed = yaml.safe_load((CONF / "source" / f"xtreme_up_{of_codes}.yaml").read_text())["codes"].values()
        for code in (*listed, *OWN_CODES.get(task, ())):
            if wanted is not None and code not in wanted:
                continue
            for split in SPLITS:
                name = f"en2{code}" if task == "translation" else code
                file = data_dir / "xtreme_up" / task / split / f"{name}.jsonl"
                file.parent.mkdir(parents=True, exist_ok=True)
                lines = [_example(task, f"{split} {code} {number}", number) for number in range(examples)]
                file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return data_dir


def _example(task: str, words: str, number: int) -> dict[str, Any]:
    animal = ("cat", "rat", "bat")[number % 3]
    if task.startswith("qa"):
        return {"question": f"{words} who?", "title": "A", "context": f"{words} the {animal}", "target": animal}
    if task == "ner":
        spans = [{"start_byte": 0, "limit_byte": len(animal), "label": "PER"}] if number % 3 < 2 else []
        return {"text": f"{animal} sat {words}", "spans": spans}
    target = f"[IN:SIT [SL:WHO {animal} ] ]" if task == "semantic_parsing" else f"{animal} {words}"
    return {"input": f"{words} where sat the {animal}", "target": target}
