from __future__ import annotations

from pathlib import Path
from typing import Any

import hydra
import pytest
from hydra.errors import HydraException
from omegaconf import OmegaConf

from xlt.compose import (
    checked,
    compose,
    compose_added_run,
    compose_language_run,
    compose_model_run,
    hydra_ready,
    language_run_settings,
    override_faults,
    plain,
)
from xlt.compose.composing import composed
from xlt.config import RunReference
from xlt.errors import UsageError


@pytest.fixture(scope="module", autouse=True)
def _hydra() -> Any:
    with hydra_ready():
        yield


def test_what_is_composed_may_be_changed_without_changing_what_others_get() -> None:
    first = compose(["experiment=nano_fields"])
    first.seed = 99
    first.data.sources.eng.cap = 1
    second = compose(["experiment=nano_fields"])
    assert (second.seed, second.data.sources.eng.cap) == (1, 2000)


def test_a_source_of_several_languages_stands_for_one_of_each_named_by_its_code() -> None:
    words = ["experiment=pos", "data=ud_1_thesis", "data.evaluation.ud.languages=[tur,sme,fao]"]
    config = compose([*words, "data.evaluation.ud.cap=7", "+source@data.evaluation.fao=ud_fao"])
    assert list(config.data.evaluation) == ["tur", "sme", "fao"] and list(config.data.sources) == ["eng"]
    turkish, sami, faroese = config.data.evaluation.values()
    assert (turkish.language, turkish.cap, list(turkish.languages)) == ("tur", 7, [])
    assert turkish.codes == {"tur": "Turkish-GB"} and turkish.hub.codes == {"tur": "tr_gb"}
    assert sami.codes == {"sme": "North_Sami-Giella"} and sami.split == "test"
    assert faroese.cap is None  # a source of its own
    config = compose([*words[:2], "data.evaluation.ud.languages=[fao,xx]", "model.path=a/b"])
    with pytest.raises(UsageError, match=r"data.evaluation.xx.language=xx: not an ISO 639-3 code"):
        checked(config)


def test_wrong_overrides_are_reported_together_each_once() -> None:
    words = ["seed=2", "seeed=3", "train.batch_size=x", "train.max_steps=7", "method=nope"]
    with pytest.raises(UsageError) as raised:
        compose(words)
    assert [line.partition(":")[0] for line in raised.value.lines] == ["seeed=3", "train.batch_size=x", "method=nope"]


def test_a_first_entry_of_a_sources_mapping_is_shown_how_to_be_written() -> None:
    with pytest.raises(UsageError) as raised:
        compose(["+source@data.sources.eng=ud_eng", "data.sources.eng.labels={X: NOUN}"])
    (line,) = raised.value.lines
    assert line.endswith(": has no such entry yet; to add one, write +data.sources.eng.labels.ENTRY=...")


def test_a_right_override_after_a_wrong_one_is_still_judged_with_those_before_it() -> None:
    lines = override_faults(["experiment=pos", "nope=1", "data.sources.eng.cap=3", "data.sources.deu.cap=3"])
    assert len(lines) == 2
    assert lines[0].startswith("nope=1: no such key")
    assert lines[1].startswith("data.sources.deu.cap=3: no data.sources.deu")


def test_values_of_right_overrides_are_judged_beside_wrong_ones_but_not_what_follows_from_those() -> None:
    lines = override_faults(["modle.path=x", "train.batch_size=0", "seed=-1"])
    assert [line.partition(":")[0] for line in lines] == ["modle.path=x", "train.batch_size=0", "seed=-1"]


def test_alternatives_of_a_sweep_are_judged_one_by_one() -> None:
    assert override_faults(["seed=1,2", "method=full,bitfit", "train.max_steps=range(1,4)"], sweep=True) == []
    (line,) = override_faults(["seed=1,2", "method=full,bitfitt"], sweep=True)
    assert line == "method=full,bitfitt: no method/bitfitt in conf/; did you mean bitfit?"


def test_a_language_run_takes_model_and_method_from_its_parent_and_its_recipe_from_itself() -> None:
    parent = compose(["experiment=nano_fields", "method=random_sft", "method.density=0.5", "output_dir=here", "seed=5"])
    child = compose_language_run(parent, "fao")
    assert (child.language, child.data.sources.text.language) == ("fao", "fao")
    assert child.method._target_ == "xlt.methods.random_sft.RandomSft"
    own = compose(["experiment=nano_language", "method=random_sft", "language=fao"])
    assert (child.method, child.train) == (own.method, own.train) and child.method.density != 0.5
    assert child.output_dir == "here"
    assert child.seed == 1  # modules of a language are shared by all seeds of a task
    assert child.task._target_ == "xlt.tasks.mlm.MaskedLanguageModelling"


@pytest.mark.parametrize("method", ["lt_sft", "mad_x", "bitfit", "mad_g_ls", "spiel_ma"])
def test_a_language_runs_recipe_is_that_of_its_own_task_and_the_parents_method(method: str) -> None:
    parent = compose(["experiment=nano_fields", f"method={method}", "train.learning_rate=0.5"])
    child = compose_language_run(parent, "fao")
    asked = compose(["experiment=nano_language", f"method={method}", "language=fao"])
    assert (child.method, child.train, child.choices) == (asked.method, asked.train, asked.choices)


def test_the_methods_other_settings_reach_the_language_runs_and_its_recipe_does_not() -> None:
    given = ["method=mad_x", "method.initialisation=normal", "method.reduction_factor=8"]
    child = compose_language_run(compose(["experiment=nano_fields", *given]), "fao")
    assert (child.method.initialisation, child.method.reduction_factor) == ("normal", 2)
    given.append("language_modules.overrides=['method.reduction_factor=3']")
    assert compose_language_run(compose(["experiment=nano_fields", *given]), "fao").method.reduction_factor == 3


def test_a_language_runs_recipe_is_that_for_the_parents_model() -> None:
    """Thesis §4.4.2: K = 7.6M is 4.3% of mBERT and 2.8% of XLM-R; §5.4.2: 4% of DistilmBERT, 200 epochs."""
    found = {}
    for words in (["experiment=pos"], ["experiment=nli"], ["experiment=pos", "model=distilmbert"]):
        child = compose_language_run(compose([*words, "scale=thesis"]), "fao")
        found[child.model.path] = child.method.density, child.train.epochs
    assert found == {
        "bert-base-multilingual-cased": (0.043, 100),
        "xlm-roberta-base": (0.028, 100),
        "distilbert-base-multilingual-cased": (0.04, 200),
    }


def test_language_runs_may_have_a_method_of_their_own() -> None:
    parent = compose(["experiment=nano_fields", "method=mad_x", "language_modules.overrides=['method=bitfit']"])
    child = compose_language_run(parent, "fao")
    assert (child.method._target_, child.choices.method) == ("xlt.methods.bitfit.BitFit", "bitfit")


def test_a_run_that_is_added_has_the_parents_recipe_whatever_it_is() -> None:
    given = ["method=spiel_ag", "method.density=0.3", "train.learning_rate=0.5", "+task_modules.runs.b=['data=empty']"]
    parent = compose(["experiment=instruct", *given])
    child = compose_added_run(parent, "b")
    assert (child.method, child.train) == (parent.method, parent.train) and child.method.density == 0.3


def test_the_languages_code_is_written_into_a_language_runs_overrides() -> None:
    parent = compose(["experiment=pos", "data_dir=/data"])
    child = compose_language_run(parent, "glv")
    assert child.data.sources.text.path == "/data/mono/{code}.txt"
    assert child.data.sources.text.codes["glv"] == "gv"
    assert child.language == child.data.sources.text.language == "glv"


def test_a_model_run_takes_settings_and_scale_but_neither_model_nor_method() -> None:
    parent = compose(["experiment=nano_fields", "output_dir=here", "method=bitfit"])
    child = compose_model_run(parent, RunReference("nano_pretrain", ["train.max_steps=3"]))
    assert (child.output_dir, child.train.max_steps, child.experiment_name) == ("here", 3, "nano_pretrain")
    assert child.method._target_ == "xlt.methods.pretrain.Pretrain" and child.model.random is not None


def test_faults_of_a_run_that_is_referred_to_say_by_which_key() -> None:
    parent = compose([])
    with pytest.raises(UsageError, match=r"^model.run: trian.max_steps=3: no such key"):
        compose_model_run(parent, RunReference("language", ["trian.max_steps=3"]))


def test_what_a_language_run_takes_over_is_all_that_tells_parents_apart() -> None:
    one, other = compose(["experiment=nano_fields"]), compose(["experiment=nano_fields", "seed=2", "task.dropout=0.3"])
    assert language_run_settings(one) == language_run_settings(other)
    third = compose(["experiment=nano_fields", "method=bitfit"])
    assert language_run_settings(one) != language_run_settings(third)


def test_a_value_taken_over_from_a_faulty_one_is_not_a_second_fault(tmp_path: Path, tiny_bert: Path) -> None:
    words = [f"model.path={tiny_bert}", f"data_dir={tmp_path}", "+source@data.sources.eng=ud_eng"]
    with pytest.raises(UsageError) as raised:
        checked(compose([*words, "train.weight_decay=-1", "method.l1=${train.weight_decay}"]))
    assert [line.partition("=")[0] for line in raised.value.lines] == ["train.weight_decay"]
    with pytest.raises(UsageError) as raised:
        checked(compose([*words, "method.density=7"]))
    assert [line.partition("=")[0] for line in raised.value.lines] == ["method.density"]


def test_keys_that_hydra_lets_in_but_no_schema_has_are_faults(tmp_path: Path, tiny_bert: Path) -> None:
    words = [f"model.path={tiny_bert}", f"data_dir={tmp_path}", "+source@data.sources.eng=ud_eng"]
    with pytest.raises(UsageError) as raised:
        checked(compose([*words, "+data.sources.eng.sft=x", "+train.foo=1"]))
    assert raised.value.lines[0].startswith("data.sources.eng.sft=x: no such key in SourceConfig")
    assert raised.value.lines[1].startswith("train.foo=1: no such key in TrainConfig")


def test_a_checked_config_is_plain_json(tmp_path: Path, tiny_bert: Path) -> None:
    words = [f"model.path={tiny_bert}", f"data_dir={tmp_path}", "+source@data.sources.eng=ud_eng"]
    found = plain(checked(compose(words)))
    assert found["data"]["sources"]["eng"]["path"] == f"{tmp_path}/ud/UD_{{code}}"
    assert found["method"]["density"] == 0.08 and found["choices"] == {
        "debug": "none",
        "method": "lt_sft",
        "model": "encoder_mini",
    }


@pytest.mark.parametrize(
    "words",
    [
        ["experiment=nano_fields", "method=lt_sft", "method.density=0.02", "seed=3"],
        ["seed=3", "experiment=nano_fields", "+train.extra=1", "~data.evaluation.fao", "method.density=0.5"],
        [
            "data.evaluation={}",
            "experiment=sentiment",
            "data=sentiment_fs_single_mini",
            "target=ace",
            "data.leaks=refuse",
        ],
        [
            "experiment=pos",
            "method={density: 0.1}",
            "+source@data.sources.more=ud_eng",
            "data.sources.more.cap=5",
        ],
    ],
)
def test_values_are_written_over_what_the_groups_gave_as_hydra_writes_them(words: list[str]) -> None:
    for again in (words, [*words, "data_dir=null"], words):  # the second and third find the groups composed
        expected = hydra.compose("config", overrides=again)
        found = composed("config", again)
        assert found.choices.keys() == expected.choices.keys()
        expected.choices = found.choices  # Hydra fills them in inside the command alone
        assert _same_nodes(found, expected)


def _same_nodes(one: Any, other: Any) -> bool:
    """Equal in value, type and flags, node by node."""
    about = [{**vars(node._metadata), "resolver_cache": None} for node in (one, other)]
    if type(one) is not type(other) or about[0] != about[1]:
        return False
    if not OmegaConf.is_config(one) or one._is_none() or one._is_interpolation():
        return bool(one._value() == other._value())
    keys = list(one) if OmegaConf.is_dict(one) else range(len(one))
    return len(one) == len(other) and all(_same_nodes(one._get_node(key), other._get_node(key)) for key in keys)


@pytest.mark.parametrize("word", ["seed=1,2", "train.bath_size=3", "method=lt_sfft", "+seed=3", "~train.nothing"])
def test_what_hydra_refuses_is_refused_in_its_words(word: str) -> None:
    words = ["experiment=nano_fields", word]
    with pytest.raises(HydraException) as expected:
        hydra.compose("config", overrides=words)
    with pytest.raises(HydraException) as raised:
        composed("config", words)
    assert (type(raised.value), str(raised.value)) == (type(expected.value), str(expected.value))


def test_hydra_is_put_away_after_use(monkeypatch: pytest.MonkeyPatch) -> None:
    from hydra.core.global_hydra import GlobalHydra

    monkeypatch.setattr(GlobalHydra.instance(), "hydra", None)
    with hydra_ready():
        compose(["seed=3"])
        with hydra_ready():
            compose(["seed=4"])
        compose(["seed=5"])
    assert not GlobalHydra.instance().is_initialized()
    with hydra_ready():
        pass


@pytest.mark.parametrize("digits", [400, 5000])
@pytest.mark.parametrize("key", ["seed", "train.learning_rate", "+nonesuch"])
def test_a_number_of_thousands_of_digits_is_one_short_line(key: str, digits: int) -> None:
    with pytest.raises(UsageError) as refused:
        checked(compose([f"{key}={'9' * digits}"]))
    line = next(line for line in refused.value.lines if key.lstrip("+") in line)
    assert len(line) < 500


@pytest.mark.parametrize("key", ["data_dir", "output_dir", "model.path", "start.path", "+data.sources.eng.files.train"])
@pytest.mark.parametrize(("value", "said"), [("x" * 300, "300 bytes"), ("y/" * 3000, "6000 bytes")])
def test_a_name_that_no_file_can_have_is_refused_with_its_key(key: str, value: str, said: str) -> None:
    with pytest.raises(UsageError) as refused:
        checked(compose(["+source@data.sources.eng=ud_eng", f"{key}={value}"]))
    (line,) = (line for line in refused.value.lines if line.startswith(f"{key.lstrip('+')}="))
    assert said in line and "File name too long" in line
