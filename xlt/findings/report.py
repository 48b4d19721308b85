"""Shows claims with their verdicts, in the terminal and as Markdown."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from rich.console import Console
from rich.text import Text

from xlt.escapes import markdown_text
from xlt.findings.claims import ClaimConfig, ClaimsConfig, Finding
from xlt.findings.verdict import CLOSE, FAILS, HOLDS, TOO_FEW, UNTESTED, WORDS

_STYLES = {HOLDS: "green", FAILS: "red", CLOSE: "yellow", TOO_FEW: "yellow", UNTESTED: "dim"}
_SHOWN_RUNS = 8

Findings = Mapping[str, Mapping[str, Finding]]


def print_claims(
    claims: Mapping[str, ClaimConfig],
    findings: Findings,
    config: ClaimsConfig,
    console: Console,
    asked: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> None:
    """Prints each claim with its verdict, and a line for each of its tests.

    Args:
        claims, findings, config: claim -> what it says, and the results of its tests.
        console: output.
        asked: store -> overrides by which its runs are not those of the tables' recipes.
    """
    for number, (name, claim) in enumerate(claims.items(), 1):
        word = config.verdict(name, findings[name].values())
        head = Text(f"{number}. {claim.says} ")
        head.append(f"[{word}]", style=_STYLES[word])
        console.print(head)
        console.print(f"   {name}; {claim.where}{_published(claim)}", style="dim", markup=False, highlight=False)
        if name in config.every_test:
            console.print(f"   {_every_test(findings[name])}", markup=False, highlight=False)
        for label, finding in findings[name].items():
            console.print(f"   {label}: {_result_line(finding)}", markup=False, highlight=False)
        if not findings[name]:
            console.print(f"   no table tests it: {config.untested[name]}", markup=False, highlight=False)
    console.print(_summary(claims, findings, config), markup=False, highlight=False)
    for line in _asked_lines(asked):
        console.print(line, markup=False, highlight=False)
    console.print(_method(config), markup=False, highlight=False)


def _asked_lines(asked: Mapping[str, Sequence[str]]) -> list[str]:
    return [f"Runs of store {name}: asked for with {' '.join(words)}" for name, words in asked.items()]


def claims_markdown(
    claims: Mapping[str, ClaimConfig],
    findings: Findings,
    config: ClaimsConfig,
    asked: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> str:
    """Returns a table with a row for each test, followed by the runs behind each test; see `print_claims`."""
    lines = [
        f"# Claims of the thesis and of papers, {config.scale} scale",
        "",
        _summary(claims, findings, config),
        "",
        *(line for text in _asked_lines(asked) for line in (markdown_text(text), "")),
        _method(config),
        "",
    ]
    lines += ["| | claim | published | test | difference | units | p | Holm | verdict |"]
    lines += ["|--:|---|---|---|---:|---|---:|---:|---|"]
    run_lines: list[str] = []
    for number, (name, claim) in enumerate(claims.items(), 1):
        word = config.verdict(name, findings[name].values())
        every = f" ({_every_test(findings[name])})" if name in config.every_test else ""
        said = f"{markdown_text(claim.says)} **{word}**{markdown_text(every)}"
        first = [str(number), said, markdown_text(claim.where + _published(claim))]
        for label, finding in findings[name].items():
            verdict = finding.verdict
            test = f"{finding.comparison.table}, {_systems(finding)}"
            test += f"; {finding.reason}" if finding.reason else ""
            cells = [
                f"{label}: {finding.reason if finding.lacking else test}",
                _difference(finding),
                f"{verdict.units} {verdict.unit}" if verdict.units else "",
                _number(verdict.p),
                _number(finding.corrected),
                verdict.word,
            ]
            lines.append("| " + " | ".join([*first, *map(markdown_text, cells)]) + " |")
            first = ["", "", ""]
            if finding.runs:
                run_lines.append(f"- {markdown_text(f'{name}, {label}: {_runs(finding)}')}")
        if not findings[name]:
            untested = markdown_text(f"no table tests it: {config.untested[name]}")
            lines.append("| " + " | ".join([*first, untested, "", "", "", "", UNTESTED]) + " |")
    if run_lines:
        lines += ["", "Runs behind the numbers (all in claims.json, pair by pair):", "", *run_lines]
    return "\n".join(lines) + "\n"


def _every_test(findings: Mapping[str, Finding]) -> str:
    words = [finding.verdict.word for finding in findings.values() if not finding.lacking]
    return f"every test must hold; {words.count(HOLDS)} of {len(words)} do"


def _result_line(finding: Finding) -> str:
    verdict = finding.verdict
    if finding.lacking:
        return str(finding.reason)
    head = f"{finding.comparison.table}, {_systems(finding)}"
    if verdict.mean is None:
        return f"{head}: {finding.reason}"
    text = f"{head} = {_difference(finding)}, {verdict.units} {verdict.unit}, {_significance(finding)}: {verdict.word}"
    return text + (f"; {finding.reason}" if finding.reason else "")


def _significance(finding: Finding) -> str:
    if finding.verdict.p is None:
        return "a count, which is the same for every seed"
    corrected = "" if finding.corrected is None else f" (Holm {_number(finding.corrected)})"
    return f"p {_number(finding.verdict.p)}{corrected}"


def _systems(finding: Finding) -> str:
    comparison = finding.comparison
    if comparison.cost is not None:
        return f"{comparison.cost} of {comparison.worse} / {comparison.better}"
    text = f"{comparison.better} - {comparison.worse}"
    if comparison.over:
        text = f"({text}) - ({comparison.over[0]} - {comparison.over[1]})"
    where = f" on {', '.join(comparison.columns)}" if comparison.columns else ""
    return text + where + (f" minus the same on {', '.join(comparison.against)}" if comparison.against else "")


def _difference(finding: Finding) -> str:
    """Returns mean and interval in points (for costs: as a ratio), and the margin if there is one."""
    verdict, comparison = finding.verdict, finding.comparison
    if verdict.mean is None:
        return ""
    shown = [verdict.mean, *(() if verdict.low is None or verdict.high is None else (verdict.low, verdict.high))]
    if comparison.cost is not None:
        texts = [f"{math.exp(value) * comparison.margin:.2f}" for value in shown]
        texts[0] += " times"
    else:
        texts = [f"{value + comparison.margin:+.1f}" for value in shown]
    margin = f", must be above {comparison.margin:g}" if comparison.margin else ""
    return texts[0] + (f" [{texts[1]}, {texts[2]}]" if len(texts) > 1 else "") + margin


def _published(claim: ClaimConfig) -> str:
    shown = ", ".join(f"{what} {' : '.join(f'{n:g}' for n in numbers)}" for what, numbers in claim.published.items())
    return f": {shown}" if shown else ""


def _runs(finding: Finding) -> str:
    short = [run[:12] for run in finding.runs]
    more = f" and {len(short) - _SHOWN_RUNS} more" if len(short) > _SHOWN_RUNS else ""
    return " ".join(short[:_SHOWN_RUNS]) + more


def _number(p: float | None) -> str:
    return "" if p is None else f"{p:.3f}" if p >= 0.001 else "<0.001"


def _summary(claims: Mapping[str, ClaimConfig], findings: Findings, config: ClaimsConfig) -> str:
    counted = Counter(config.verdict(name, findings[name].values()) for name in claims)
    return f"{len(claims)} claims: " + ", ".join(f"{counted[word]} {word}" for word in WORDS)


def _method(config: ClaimsConfig) -> str:
    return (
        "How claims are judged: differences are paired by language and seed. A one-sided permutation test flips their "
        f"signs; from {config.enough_languages} languages on it uses one mean over seeds for each language. A test "
        f"holds if p is at most {config.level:g} and the {100 * config.confidence:g}% bootstrap interval of the mean "
        "lies above 0. It does not hold if the same is true in the other direction. With too few pairs, p cannot "
        "become so small. Costs are compared without a test: all languages must lie above the margin, or all below. A "
        "claim holds if all its tests hold, or if none fails and one holds after Holm's correction for the number of "
        "the claim's tests. A claim about every test holds only if all tests hold. There is no correction for the "
        "number of claims. To make missing runs: xlt table table=NAME."
    )
