"""Claims on hand-made rows of scores, and the list in conf."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from xlt.commands.claims import check_claims, compose_claims
from xlt.compose import hydra_ready
from xlt.config import faults
from xlt.errors import UsageError
from xlt.findings.claims import (
    ClaimConfig,
    ClaimsConfig,
    ComparisonConfig,
    Finding,
    Row,
    StoreConfig,
    Value,
    as_record,
    correct,
    examine,
    overall,
    without_cells,
)
from xlt.findings.report import claims_markdown, print_claims
from xlt.findings.verdict import CLOSE, FAILS, HOLDS, TOO_FEW, UNTESTED, Trial, Verdict, judge
from xlt.tables.config import GridConfig
from xlt.tables.request import request_table

TRIAL = Trial(level=0.05, confidence=0.95, resamples=999, enough_languages=5)
LANGUAGES = ["fao", "sme", "myv", "glv", "bam"]
PLAIN = ComparisonConfig("small", "", "encoder", "good", "bad", [], [], [], None, 0.0, {}, {})
Scores = Mapping[tuple[str, int], Mapping[str, float]]


def comparison(**changes: Any) -> ComparisonConfig:
    return ComparisonConfig(**{**vars(PLAIN), **changes})


def found(scores: Scores, asked: ComparisonConfig = PLAIN, seeds: Sequence[int] = (1,)) -> Finding:
    """A finding from (system, seed) -> language -> score; a run is called SYSTEM-SEED."""

    def rows(_: ComparisonConfig, system: str, seed: int) -> Row:
        if (system, seed) not in scores:
            raise UsageError(f"no system {system}")
        return {language: Value(score, f"{system}-{seed}") for language, score in scores[system, seed].items()}

    return examine(asked, rows, lambda columns: columns or LANGUAGES, seeds, TRIAL)


def flat(score: float) -> dict[str, float]:
    return {language: score + number for number, language in enumerate(LANGUAGES)}


def test_systems_are_paired_by_language_and_seed() -> None:
    scores = {("good", 1): flat(50.0), ("good", 2): flat(54.0), ("bad", 1): flat(49.0), ("bad", 2): {"fao": 50.0}}
    finding = found(scores, seeds=(1, 2))
    differences = {(pair.language, pair.seed): pair.difference for pair in finding.pairs}
    assert differences == {**{(language, 1): 1.0 for language in LANGUAGES}, ("fao", 2): 4.0}
    # Means over seeds: 2.5 and four times 1.
    assert finding.verdict.mean == pytest.approx(1.3)
    assert (finding.verdict.word, finding.verdict.p) == (HOLDS, 1 / 32)
    assert finding.runs == ["good-1", "bad-1", "good-2", "bad-2"]
    assert finding.reason == "6 of 10 pairs are in the store"


def test_a_claim_the_wrong_way_round_does_not_hold() -> None:
    assert found({("good", 1): flat(40.0), ("bad", 1): flat(49.0)}).verdict.word == FAILS


def test_a_margin_is_what_the_difference_must_exceed() -> None:
    scores = {("good", 1): flat(50.0), ("bad", 1): flat(49.0)}
    assert found(scores, comparison(margin=10.0)).verdict.word == FAILS
    assert found({("good", 1): flat(48.0), ("bad", 1): flat(49.0)}, comparison(margin=-1.3)).verdict.word == HOLDS


def test_a_gain_can_be_compared_with_another_gain() -> None:
    scores = {(name, 1): flat(score) for name, score in (("good", 60.0), ("bad", 50.0), ("c", 44.0), ("d", 41.0))}
    finding = found(scores, comparison(over=["c", "d"]))
    assert [pair.difference for pair in finding.pairs] == [7.0] * 5
    assert len(finding.pairs[0].values) == 4


def test_a_gain_can_be_compared_with_that_on_other_languages() -> None:
    seen = ["eng", "deu", "fra", "spa", "tur"]
    scores = {
        ("good", 1): {**flat(60.0), **dict.fromkeys(seen, 80.0)},
        ("bad", 1): {**flat(50.0), **dict.fromkeys(seen, 79.0)},
    }
    finding = found(scores, comparison(against=seen))
    # 10 points on each of five languages against 1 on five others: one division of 252 is as extreme.
    assert (finding.verdict.mean, finding.verdict.word) == (9.0, HOLDS)
    assert finding.verdict.p == pytest.approx(1 / 252)


def test_costs_are_compared_as_a_ratio() -> None:
    scores = {("good", 1): flat(10.0), ("bad", 1): {language: 2 * cost for language, cost in flat(10.0).items()}}
    finding = found(scores, comparison(cost="flops", margin=1.8))
    assert finding.verdict.mean == pytest.approx(math.log(2 / 1.8))
    assert finding.verdict.word == HOLDS
    assert found(scores, comparison(cost="flops", margin=2.5)).verdict.word == FAILS


def test_a_cost_is_one_value_a_language_however_many_seeds() -> None:
    two = {"fao": 10.0, "sme": 12.0}
    scores = {("good", seed): two for seed in (1, 2, 3)} | {
        ("bad", s): {name: 1.9 * cost for name, cost in two.items()} for s in (1, 2, 3)
    }
    finding = found(scores, comparison(cost="flops", margin=1.8, columns=["fao", "sme"]), seeds=(1, 2, 3))
    assert (finding.verdict.word, finding.verdict.units, finding.verdict.p) == (HOLDS, 2, None)
    correct([finding])
    assert overall([finding], every_test=False, level=0.05) == HOLDS
    close = found(scores, comparison(cost="flops", margin=1.95, columns=["fao", "sme"]), seeds=(1, 2, 3))
    assert close.verdict.word == FAILS


def test_what_cannot_be_composed_is_said_and_not_tested() -> None:
    finding = found({("good", 1): flat(50.0)})
    assert (finding.verdict.word, finding.reason, finding.pairs) == (UNTESTED, "no system bad", [])
    empty = found({("good", 1): flat(50.0), ("bad", 1): {}})
    assert (empty.verdict.word, empty.reason) == (UNTESTED, "0 of 5 pairs are in the store")


def findings_of(*told: tuple[str, float]) -> list[Finding]:
    """Tests of a claim from words and p-values, each in its own direction, corrected."""
    findings = [
        Finding(PLAIN, Verdict(word, p=1 - p if word == FAILS else p, p_below=p if word == FAILS else 1 - p))
        if word != UNTESTED
        else Finding(PLAIN, Verdict(word))
        for word, p in told
    ]
    correct(findings)
    return findings


@pytest.mark.parametrize(
    ("told", "word"),
    [
        ([], UNTESTED),
        ([(UNTESTED, 1)], UNTESTED),
        ([(UNTESTED, 1), (CLOSE, 0.3)], CLOSE),
        ([(HOLDS, 0.04), (UNTESTED, 1)], HOLDS),
        ([(HOLDS, 0.04), (CLOSE, 0.3)], CLOSE),  # of two tests the smaller p counts twice: 0.08
        ([(HOLDS, 0.02), (CLOSE, 0.3)], HOLDS),
        ([(HOLDS, 0.02), (CLOSE, 0.3), (CLOSE, 0.4)], CLOSE),
        ([(HOLDS, 0.04), (HOLDS, 0.04)], HOLDS),  # nothing was picked out of many: all do
        ([(FAILS, 0.04), (FAILS, 0.04)], FAILS),
        ([(FAILS, 0.02), (CLOSE, 0.3)], FAILS),
        ([(FAILS, 0.04), (CLOSE, 0.3)], CLOSE),
        ([(HOLDS, 0.001), (FAILS, 0.04)], CLOSE),
        ([(TOO_FEW, 0.06), (UNTESTED, 1)], TOO_FEW),
        ([(TOO_FEW, 0.06), (CLOSE, 0.3)], CLOSE),
        ([(TOO_FEW, 0.06), (TOO_FEW, 0.06), (HOLDS, 0.02), (CLOSE, 0.3)], HOLDS),  # what cannot decide counts for none
    ],
)
def test_a_claim_has_the_word_that_its_tests_have_when_they_are_counted(
    told: list[tuple[str, float]], word: str
) -> None:
    assert overall(findings_of(*told), every_test=False, level=0.05) == word


@pytest.mark.parametrize(
    ("told", "word"),
    [
        ([], UNTESTED),
        ([(HOLDS, 0.04)] * 5, HOLDS),
        ([(HOLDS, 0.001)] * 4 + [(CLOSE, 0.2)], CLOSE),
        ([(HOLDS, 0.001)] * 4 + [(UNTESTED, 1)], UNTESTED),
        ([(HOLDS, 0.001)] * 4 + [(TOO_FEW, 0.06)], TOO_FEW),
        ([(HOLDS, 0.001)] * 4 + [(FAILS, 0.001)], FAILS),
        ([(HOLDS, 0.001)] * 4 + [(FAILS, 0.04)], CLOSE),
        ([(FAILS, 0.04)] * 5, FAILS),
    ],
)
def test_a_claim_of_every_test_needs_all_of_them(told: list[tuple[str, float]], word: str) -> None:
    assert overall(findings_of(*told), every_test=True, level=0.05) == word


def test_with_nothing_to_find_a_claim_of_five_tests_is_decided_no_more_often_than_one_test() -> None:
    draw, rounds = np.random.default_rng(0), 200
    trial = Trial(0.05, 0.95, 256, 5)
    words = []
    for _ in range(rounds):
        tests = [Finding(PLAIN, judge({(str(n), 1): draw.normal() for n in range(8)}, trial)) for _ in range(5)]
        correct(tests)
        words.append(overall(tests, every_test=False, level=0.05))
    # At most 0.05 in either direction; uncorrected it would be 0.2. Two standard errors are 0.03.
    assert words.count(HOLDS) / rounds < 0.08 and words.count(FAILS) / rounds < 0.08


def test_a_correction_counts_the_tests_of_the_claim_that_were_made() -> None:
    findings = findings_of((HOLDS, 0.02), (UNTESTED, 1), (CLOSE, 0.5))
    assert [finding.corrected for finding in findings] == [0.04, None, 0.5]
    assert [finding.corrected_below for finding in findings] == [1.0, None, 1.0]


def test_the_mixes_of_the_claim_on_adapters_are_all_that_have_both() -> None:
    with hydra_ready():
        config = compose_claims(["scale=thesis"])
        claim = config.claims["sft_over_adapters"]
        for task in ("SA", "NLI"):
            systems = request_table(["table=data_mixes", "scale=thesis"]).grids[task].systems
            both = {name for name in systems if f"adapter_{name}" in systems}
            assert {test.better for label, test in claim.tests.items() if label.startswith(task)} == both
    assert config.every_test == ["sft_over_adapters", "composed_instructions"]


@pytest.fixture
def reported() -> tuple[dict[str, ClaimConfig], dict[str, dict[str, Finding]], ClaimsConfig]:
    claims = {
        "first": ClaimConfig("Good is better.", "§1, Table 2", {"POS": [71.1, 68.6]}, {"POS": PLAIN}),
        "second": ClaimConfig("Nobody knows.", "§2", {}, {}),
    }
    findings = {"first": {"POS": found({("good", 1): flat(52.0), ("bad", 1): flat(49.0)})}, "second": {}}
    correct(findings["first"].values())
    stores = {"encoder": StoreConfig("outputs", [1], [])}
    return (
        claims,
        findings,
        ClaimsConfig(claims, [], {"second": "none has it"}, [], stores, "outputs", [1], "mini", 0.05, 0.95, 999, 5),
    )


def test_the_report_has_claims_numbers_and_the_runs_behind_them(reported: Any) -> None:
    claims, findings, config = reported
    text = claims_markdown(claims, findings, config)
    assert "2 claims: 1 holds, 0 does not hold, 0 too close to call, 0 too few pairs, 1 not tested" in text
    row = (
        "| 1 | Good is better. **holds** | §1, Table 2: POS 71.1 : 68.6 | POS: small, good - bad | +3.0 [+3.0, +3.0] |"
    )
    assert f"{row} 5 languages | 0.031 | 0.031 | holds |" in text
    assert "| 2 | Nobody knows. **not tested** | §2 | no table tests it: none has it |" in text
    assert "- first, POS: good-1 bad-1" in text
    record = as_record("first", findings["first"], config)
    assert record["verdict"] == HOLDS
    assert record["tests"]["POS"]["pairs"][0] == {
        "language": "fao", "seed": 1, "difference": 3.0, "values": [52.0, 49.0], "runs": ["good-1", "bad-1"],
    }  # fmt: skip


def test_too_few_pairs_and_counted_costs_are_shown_as_such(reported: Any) -> None:
    claims, _, config = reported
    four = {language: score for language, score in flat(50.0).items() if language != "bam"}
    cost = comparison(cost="flops", margin=1.8)
    findings = {
        "first": {"POS": found({("good", 1): four, ("bad", 1): flat(49.0)})},
        "second": {"NER": found({("good", 1): flat(10.0), ("bad", 1): dict.fromkeys(LANGUAGES, 40.0)}, cost)},
    }
    for of in findings.values():
        correct(of.values())
    text = claims_markdown(claims, findings, config)
    assert "2 claims: 1 holds, 0 does not hold, 0 too close to call, 1 too few pairs, 0 not tested" in text
    assert "4 languages x seeds | 0.062 |  | too few pairs |" in text
    assert "5 languages |  |  | holds |" in text
    out = StringIO()
    print_claims(claims, findings, config, Console(file=out, width=300))
    assert "4 languages x seeds, p 0.062: too few pairs; 4 of 5 pairs are in the store" in out.getvalue()
    assert "5 languages, a count, which is the same for every seed: holds" in out.getvalue()


def test_a_claim_of_every_test_says_how_many_hold(reported: Any) -> None:
    claims, findings, config = reported
    config.every_test = ["first"]
    findings["first"]["LAS"] = Finding(PLAIN, Verdict(UNTESTED), reason="0 of 5 pairs are in the store")
    text = claims_markdown(claims, findings, config)
    assert "| 1 | Good is better. **not tested** (every test must hold; 1 of 2 do) |" in text


@pytest.mark.parametrize("width", [40, 80, 160])
def test_the_report_fits_any_terminal(width: int, reported: Any) -> None:
    out = StringIO()
    print_claims(*reported, Console(file=out, width=width))
    assert max(map(len, out.getvalue().splitlines())) <= width
    assert "Good is better." in out.getvalue() and "[holds]" in out.getvalue()


def test_faults_of_the_list_are_all_named(reported: Any) -> None:
    claims, _, config = reported
    claims["first"].tests["POS"] = comparison(store="cellar", over=["a"], cost="flops", at={"maxi": {}})
    config.only, config.every_test, config.level, config.resamples = ["third"], ["fourth"], 0.005, 100
    config.untested = {}
    assert sorted(line.partition(":")[0] for line in faults(config)) == [
        "claims.first.tests.POS.at, claims.first.tests.POS.lacking",
        "claims.first.tests.POS.cost=flops",
        "claims.first.tests.POS.margin=0.0",
        "claims.first.tests.POS.over=['a']",
        "claims.first.tests.POS.store=cellar",
        "claims.second.tests",
        "every_test",
        "only",
        "resamples=100",
    ]


@pytest.fixture(scope="module", params=["mini", "thesis"])
def listed(request: pytest.FixtureRequest) -> tuple[ClaimsConfig, dict[tuple[str, str], GridConfig]]:
    """The list of claims, and the grids that it names by table and heading, without composing a run."""
    with hydra_ready():
        config = compose_claims([f"scale={request.param}"])
        tests = [test for claim in config.claims.values() for test in claim.tests.values()]
        names = dict.fromkeys(test.table for test in tests if request.param not in test.lacking)
        grids = {name: request_table([f"table={name}", f"scale={request.param}"]).grids for name in names}
    found = {(name, heading): grid for name, of in grids.items() for heading, grid in of.items()}
    return config, found | {(name, ""): next(iter(of.values())) for name, of in grids.items() if len(of) == 1}


def test_every_claim_says_where_it_stands(listed: Any) -> None:
    config, _ = listed
    assert len(config.claims) >= 20
    for claim in config.claims.values():
        papers = r"(Lin|Schmidt|Bandarkar|Alabi) et al\. \(20\d\d\), "
        assert claim.where.startswith(("§", "A question of this project")) or re.match(papers, claim.where)
        assert claim.says.endswith(".")
        assert all(len(numbers) == 2 for numbers in claim.published.values())


def test_every_claim_has_cells_or_it_is_said_why_not(listed: Any) -> None:
    config, _ = listed
    assert [name for name, claim in config.claims.items() if not claim.tests] == []
    lost = [n for n, c in config.claims.items() if c.tests and all(config.scale in t.lacking for t in c.tests.values())]
    assert lost == (["bilingual_over_multilingual"] if config.scale == "mini" else [])


def test_every_test_names_a_table_systems_and_columns_that_there_are(listed: Any) -> None:
    config, tables = listed
    wrong = []
    for name, claim in config.claims.items():
        for label, test in claim.tests.items():
            if config.scale in test.lacking:
                continue
            table = tables[test.table, test.heading]
            named = {test.better, test.worse, *test.over} - table.systems.keys()
            named |= {*test.columns, *test.against} - {*table.columns, *table.sources}
            wrong += [(name, label, test.table, test.heading, one) for one in sorted(named)]
    assert wrong == []


def test_languages_are_on_one_side_of_a_test_only(listed: Any) -> None:
    config, tables = listed
    compared = 0
    for name, claim in config.claims.items():
        for test in claim.tests.values():
            if test.against and config.scale not in test.lacking:
                grid = tables[test.table, test.heading]
                own, against = (
                    {one for column in columns for one in grid.groups.get(column, [column])}
                    for columns in (test.columns or grid.average or grid.columns, test.against)
                )
                assert own and against and not own & against, name
                compared += 1
    assert compared


def test_the_numbers_of_a_claim_are_those_of_its_tables(listed: Any) -> None:
    config, tables = listed
    if config.scale != "thesis":
        return
    compared = 0
    for name, claim in config.claims.items():
        for label, test in claim.tests.items():
            if config.scale in test.lacking or test.over or test.against or test.cost or "nano" in test.store:
                continue
            column, numbers = (test.columns or ["avg"])[0], tables[test.table, test.heading].reference
            if "averages over the columns shown" in tables[test.table, test.heading].reference_name:
                continue  # the printed average is over other columns
            pair = [numbers.get(system, {}).get(column) for system in (test.better, test.worse)]
            if None not in pair and claim.published:
                assert pair in [pytest.approx(given, abs=0.05) for given in claim.published.values()], (name, label)
                compared += 1
    assert compared > 50


@pytest.mark.parametrize(("mad_g", "word"), [(40.8, FAILS), (50.0, FAILS), (65.9, HOLDS)])
def test_mad_g_keeps_most_of_mad_x_only_if_it_is_nearer_to_it_than_to_nothing(
    listed: Any, mad_g: float, word: str
) -> None:
    # Thesis Table 3.2, POS of languages that the generator has seen: TA-only 40.8, MAD-X 68.8; half way is 54.8.
    asked = listed[0].claims["mad_g_retains_mad_x"].tests["POS"]
    scores = {("mad_g", 1): flat(mad_g), ("mad_g_ta", 1): flat(40.8), ("mad_x", 1): flat(68.8)}
    assert found(scores, dataclasses.replace(asked, columns=LANGUAGES)).verdict.word == word


def test_a_scale_can_lack_the_cells_of_a_test_and_the_report_says_why(reported: Any) -> None:
    claims, findings, config = reported
    lost = comparison(lacking={"mini": "nobody wrote them"})
    assert without_cells(lost, "thesis") is None
    findings["first"]["LAS"] = without_cells(lost, "mini")
    assert config.verdict("first", findings["first"].values()) == HOLDS
    config.every_test = ["first"]
    assert config.verdict("first", findings["first"].values()) == HOLDS
    assert "| LAS: no cells at scale=mini: nobody wrote them |" in claims_markdown(claims, findings, config)
    out = StringIO()
    print_claims(claims, findings, config, Console(file=out, width=300))
    assert "   LAS: no cells at scale=mini: nobody wrote them\n" in out.getvalue()
    assert "   every test must hold; 1 of 1 do\n" in out.getvalue()


def test_the_numbers_given_for_a_claim_are_on_its_side_or_within_its_margin() -> None:
    with hydra_ready():
        claims = compose_claims([]).claims
    for name, claim in claims.items():
        margin = min([0.0, *(test.margin for test in claim.tests.values())])
        for what, (better, worse) in claim.published.items():
            assert better - worse >= margin, (name, what)


def test_without_runs_nothing_is_tested_and_no_number_shown(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ["only=[taught_students,composed_instructions]", f"output_dir={tmp_path}", "seeds=[1]"]
    words += ["model.path=/no/such/model", "data_dir=/no/such/data"]
    assert check_claims(words) == 0
    out = capfd.readouterr().out
    assert "2 claims: 0 holds, 0 does not hold, 0 too close to call, 0 too few pairs, 2 not tested" in " ".join(
        out.split()
    )
    assert "fields: bistil_nano, bistil_tf_2 - bistil_st_2: 0 of 3 pairs are in the store" in " ".join(out.split())
    assert (tmp_path / "claims.md").is_file() and (tmp_path / "claims.json").is_file()
    assert not (tmp_path / "runs").exists()


def test_what_a_store_lacks_is_said_of_that_store(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ["only=[spiel_over_lora]", f"output_dir={tmp_path}", "model.path=/of/the/encoder", "data_dir=/data"]
    assert check_claims(words) == 0
    out = " ".join(capfd.readouterr().out.split())
    assert "spiel_ag - lora: with stores.decoder.overrides: model: exactly one of model.path, " in out


def test_a_table_of_a_loss_is_not_taken_for_one_of_scores(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    prefix = "claims.mad_x_over_bitfit.tests.fields"
    words = [f"{prefix}.table=instruct_curves", f"{prefix}.heading=loss", f"{prefix}.better=spiel_ag"]
    words += [f"{prefix}.worse=lora", "only=[mad_x_over_bitfit]", f"output_dir={tmp_path}"]
    assert check_claims(words) == 0
    out = " ".join(capfd.readouterr().out.split())
    assert "table instruct_curves has a loss, of which less is better; a claim needs scores" in out


def test_an_override_that_makes_the_systems_of_a_test_equal_leaves_no_verdict(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["only=[mad_x_over_bitfit]", f"output_dir={tmp_path}", "stores.nano.overrides=['method=bitfit']"]
    assert check_claims(words) == 0
    out = " ".join(capfd.readouterr().out.split())
    reason = 'with stores.nano.overrides: method=bitfit: takes the place of what rows set: "MAD-X" and "BitFit" would'
    assert reason in out
    assert "Runs of store nano: asked for with method=bitfit" in out
    assert "Runs of store nano: asked for with method=bitfit" in (tmp_path / "claims.md").read_text(encoding="utf-8")
    record = json.loads((tmp_path / "claims.json").read_text(encoding="utf-8"))
    assert record["asked_for_with"] == {"nano": ["method=bitfit"]}
