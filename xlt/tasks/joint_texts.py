"""Several tasks in one run as text to text: the language-model head writes the answers of all (XTREME-UP's set-up)."""

from __future__ import annotations

from dataclasses import dataclass

from xlt.tasks.joint import Joint, JointConfig
from xlt.tasks.task import Task


@dataclass
class JointTextsConfig(JointConfig):
    """Settings of several tasks as text to text in one run."""

    _target_: str = "xlt.tasks.joint_texts.JointTexts"

    @staticmethod
    def part_fault(part: type[Task]) -> str | None:
        if issubclass(part, Joint):
            return "these are several tasks themselves; list them one by one"
        if part.has_head or not part.needs_lm_head or part.metric_range is None:
            return "it is not scored by what the model writes; take a task of class text_to_text"
        return None


SCHEMA = JointTextsConfig


class JointTexts(Joint):
    """Several tasks whose answers one decoder writes; prompts say which task and language an example is of.

    A batch has examples of one task, as in `Joint`, and the metric is the same mean. There is no head to add.
    """

    needs_lm_head = True
    head = Task.head
