"""What stands below a sweep's results: equal jobs, and what the means are over."""

from __future__ import annotations

from xlt.tables.sweep_notes import PlannedJob, mean_lines, same_result_lines


def test_jobs_with_one_result_are_named_with_the_keys_that_change_nothing() -> None:
    jobs = [
        PlannedJob(0, ["method=full", "train.ema_decay=0.5", "seed=1"], "a"),
        PlannedJob(1, ["method=full", "train.ema_decay=0.6", "seed=1"], "a"),
        PlannedJob(2, ["method=full", "train.ema_decay=0.5", "seed=2"], "b"),
        PlannedJob(3, ["method=full", "train.ema_decay=0.6", "seed=2"], "b"),
        PlannedJob(4, ["method=full", "train.ema_decay=0.6", "seed=3"], "c"),
    ]
    assert same_result_lines(jobs) == ["jobs 0 = 1, 2 = 3 have one result each: train.ema_decay changes nothing in it"]
    twice = [PlannedJob(0, ["seed=1"], "a"), PlannedJob(1, ["seed=1"], "a")]
    assert same_result_lines(twice) == ["jobs 0 = 1 have one result each: asked for twice"]
    two = [PlannedJob(0, ["++a=1", "b=1"], "a"), PlannedJob(1, ["++a=2", "b=2"], "a")]
    assert same_result_lines(two) == ["jobs 0 = 1 have one result each: a and b change nothing in it"]
    assert same_result_lines(jobs[3:]) == []
    many = [PlannedJob(number, [f"x={number % 2}"], number // 2) for number in range(24)]
    assert "14 = 15 and 4 more have" in same_result_lines(many)[0]


def test_means_over_different_languages_are_told_apart() -> None:
    both, one = ["eng", "fao"], ["fao"]
    metrics = {0: "accuracy", 1: "accuracy"}
    assert mean_lines({0: {"task": both}, 1: {"task": both}}, metrics) == ["accuracy, mean over eng, fao"]
    assert mean_lines({0: {"task": both, "task+language": one}, 1: {"task": one}}, metrics) == [
        "accuracy, mean over eng, fao: task of jobs 0",
        "accuracy, fao: task+language of jobs 0; task of jobs 1",
    ]
    assert mean_lines({0: {"task": one}, 1: {"task": one}}, metrics | {1: "f1"}) == [
        "accuracy, fao: task of jobs 0",
        "f1, fao: task of jobs 1",
    ]
    wide = mean_lines({0: {"task": [f"l{number}" for number in range(20)]}}, metrics)
    assert wide == ["accuracy, mean over l0, l1, l2, l3, l4, l5, l6, l7 and 12 more"]
    assert mean_lines({}, {}) == []
