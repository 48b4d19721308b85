"""Says of a run that was evaluated which of its texts are longer than its task reads."""

from __future__ import annotations

from collections.abc import Collection

from xlt.engine.build import build_encoder, build_task
from xlt.engine.run_data import RunData
from xlt.plan.planner import Run
from xlt.use.cut_texts import CutTexts


def say_cut_texts(run: Run, names: Collection[str]) -> None:
    """Prints a line for each evaluation source with texts that lose tokens.

    Args:
        run: that is trained and evaluated, so that the features of its data are in the cache.
        names: of its evaluation sources; those of benchmarks are passed over.
    """
    task = build_task(run.config.task)
    data = RunData(run.config, task, run.planned_data)
    sources = data.sources("evaluation")
    names = [name for name in sources if name in names]
    if not names or not task.compares or run.evaluation_model is None:
        return
    encoder = build_encoder(run.config, run.evaluation_model, data)
    for source in data.load("evaluation", encoder, names):
        cut = CutTexts()
        part = task.part(sources[source.name].config.features_of_examples(task.name))
        cut.look_at(part, list(data.examples(source.name)), source.features, encoder)
        cut.say()
