from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

import xlt
from xlt.compose import CONFIG_MODULE, compose, hydra_ready
from xlt.compose.recipes import BY_METHOD, BY_MODEL, register_recipes
from xlt.config import faults
from xlt.errors import UsageError
from xlt.tables.columns import run_words
from xlt.tables.request import request_table

CONF = Path(xlt.__file__).parent.parent / "conf"
SCALES = ("mini", "thesis")
# SpIEL's density is given by itself or by a rank; a line that gives the one has the other beside it.
ALTERNATIVES = ["method: give one of method.density and method.rank, not both"]
RECIPE_WORD = re.compile(r"(train|method)\.(\w+)=")
# What tables vary on purpose: file of conf/table -> the keys, and why.
VARIED: dict[str, tuple[str, str]] = {
    "densities|densities_nano|sizes|adapter_hub": (
        r"method\.(density|reduction_factor|dense_max_steps)|train\.max_steps",
        "the size of the modules",
    ),
    "instruct_search": (r"train\.(learning_rate|weight_decay)|method\.(rank|density)", "the search behind the recipe"),
    "spiel_schedule": (r"method\.(schedule|update_interval)", "the schedule"),
    "transfer|seen_languages": (
        r"method\.(density|reduction_factor)",
        "sizes that are best without language modules, or for UAS (Table 4.2)",
    ),
    "mad_g.*": (
        r"train\.(epochs|max_steps)|method\.(leave_out_last|reduction_factor)",
        "chapter 3: 15,000 steps, adapters in all blocks and of 48 units for every task",
    ),
    "flix": (
        r"method\.(rank|alpha|dropout|feature_dropout|density|dense_max_steps)"
        r"|train\.(max_steps|evaluate_every_steps|precision|learning_rate)",
        "as the other tables of FLix; runs of one task have a third of the steps, language modules half of theirs",
    ),
    "flix_(languages|nano|joint|mixtures|dropout|diversity)": (
        r"method\.(rank|alpha|dropout|feature_dropout|density)|train\.learning_rate",
        "LoRA and LT-SFT of FLix's size, LoRA of its scale, and FLix without feature dropout",
    ),
    "bistil": (r"train\.evaluate_every_\w+|method\.density", "chapter 5: validation each epoch, and 8% for questions"),
    "averaging|averaging_nano": (
        r"train\.(averaging|average_last|ema_decay|learning_rate|evaluate_every_\w+)",
        "the averages, a high rate, and more validations than a best checkpoint needs",
    ),
    "levers.*": (r"(train|method|task)\..+", "what each value of the recipe does, on languages kept for choosing it"),
    "mask_overlap.*": (r"method\.(overlap|overlap_with|among)", "the entries that modules share"),
    "translation_pairs": (r"train\.(max_steps|learning_rate)", "a translator before it is adapted"),
}


def options(group: str) -> list[str]:
    return sorted(file.stem for file in (CONF / group).glob("*.yaml") if not file.stem.startswith("_"))


@pytest.fixture(scope="module", autouse=True)
def _hydra() -> Iterator[None]:
    with hydra_ready():
        yield


def plain(config: Any, *parts: str) -> dict[str, Any]:
    """`train.x` and `method.x` of a config, as they stand."""
    whole = {part: OmegaConf.to_container(config[part]) for part in parts or ("train", "method")}
    return {f"{part}.{name}": value for part, values in whole.items() for name, value in values.items()}


def stored(group: str) -> Iterator[tuple[str, str, str, str, Any]]:
    """Recipe, scale, method, model and values of every line of a kind."""
    methods, models = sorted(options("method"), key=len), sorted(options("model"), key=len)
    pattern = re.compile(rf"(.+)_(mini|thesis)_({'|'.join(methods)})(?:_({'|'.join(models)}))?")
    for name in ConfigStore.instance().repo[group]:
        found = pattern.fullmatch(name.removesuffix(".yaml"))
        assert found is not None, name
        yield (
            found[1],
            found[2],
            found[3],
            found[4] or "",
            OmegaConf.to_container(ConfigStore.instance().load(f"{group}/{name}").node),
        )


@pytest.mark.slow
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("experiment", options("experiment"))
def test_every_experiment_composes_with_every_method(experiment: str, scale: str) -> None:
    for method in options("method"):
        config = compose([f"experiment={experiment}", f"method={method}", f"scale={scale}", "data=empty"])
        config.language = config.target = "fao"
        for part in ("train", "method"):
            assert list(faults(OmegaConf.to_object(config[part]), part)) == [], method
        assert config.choices.method == method


@pytest.mark.slow
@pytest.mark.parametrize("group", [BY_METHOD, BY_MODEL])
def test_every_line_of_a_recipe_is_taken_up(group: str) -> None:
    for recipe, scale, method, model, values in stored(group):
        words = [f"recipe={recipe}", f"scale={scale}", f"method={method}", *([f"model={model}"] if model else [])]
        config, given = compose(words), {f"{p}.{k}": v for p, of in values.items() for k, v in of.items()}
        assert {name: OmegaConf.select(config, name) for name in given} == given, words


def test_every_line_of_a_recipe_fits_its_methods_schema() -> None:
    configs = {method: compose([f"method={method}"]) for method in options("method")}
    count = 0
    for group in (BY_METHOD, BY_MODEL):
        for recipe, scale, method, _, values in stored(group):
            for part in values:
                merged = OmegaConf.merge(configs[method][part], values[part])
                assert list(faults(OmegaConf.to_object(merged), part)) in ([], ALTERNATIVES), (recipe, scale, method)
            count += 1
    assert count > 200


def test_the_command_line_wins_over_the_recipe() -> None:
    config = compose(["method=mad_x", "train.learning_rate=0.25", "method.reduction_factor=3"])
    assert (config.train.learning_rate, config.method.reduction_factor) == (0.25, 3)


def test_every_recipe_is_one_of_an_experiment_or_chosen_somewhere_in_conf() -> None:
    chosen = {
        str(word) for file in CONF.rglob("*.yaml") for word in re.findall(r"recipe(?:=|: )(\w+)", file.read_text())
    }
    assert set(options("recipes")) <= chosen


def test_what_recipes_give_to_a_method_is_marked_so_in_its_schema() -> None:
    """A language run takes what is not marked from its parent. The blocks without adapters are the parent's."""
    schemas = {method: OmegaConf.get_type(compose([f"method={method}"]).method) for method in options("method")}
    for group in (BY_METHOD, BY_MODEL):
        for _, _, method, _, values in stored(group):
            fields = schemas[method].__dataclass_fields__
            for name in set(values.get("method", {})) - {"leave_out_last"}:
                assert fields[name].metadata["recipe"], (method, name)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        # §4.4.3
        (["experiment=pos"], {"train.epochs": 10, "train.batch_size": 8, "train.learning_rate": 5e-5,
                              "train.evaluate_every_steps": 250, "method.dense_epochs": 3, "method.density": 0.08}),
        # §4.4.3: 14.2M of 278M
        (["experiment=nli"], {"train.epochs": 5, "method.dense_epochs": None, "train.batch_size": 32,
                              "train.learning_rate": 2e-5, "method.density": 0.051, "train.evaluate_every_steps": 625}),
        # §6.4.2
        (["experiment=sentiment"], {"train.epochs": 10, "method.dense_epochs": 3, "train.batch_size": 16,
                                    "train.learning_rate": 2e-5, "method.density": 0.08,
                                    "train.evaluate_every_steps": 250, "train.warmup_fraction": 0}),
        # §4.4.4, §5.4.3
        (["experiment=qa"], {"train.epochs": 5, "train.batch_size": 12, "train.learning_rate": 3e-5,
                             "method.density": 0.051, "train.evaluate_every_steps": 2000}),
        # Table 4.2
        (["experiment=ner", "method=mad_x"], {"method.reduction_factor": 8}),
        (["experiment=nli", "method=mad_x"], {"method.reduction_factor": 2}),
        # Table 7.1
        (["experiment=instruct", "method=ia3"], {"train.learning_rate": 3e-4}),
        (["experiment=instruct", "method=ia3", "model=llama2_13b"], {"train.learning_rate": 1e-4}),
        (["experiment=instruct", "method=lora"], {"train.learning_rate": 1e-4, "method.rank": 64}),
        (["experiment=instruct", "method=lora", "model=llama2_13b"], {"train.learning_rate": 3e-5, "method.rank": 64}),
        (["experiment=instruct"], {"train.learning_rate": 1e-4, "method.rank": 64, "train.weight_decay": 30}),
        (["experiment=instruct", "model=llama2_13b"],
         {"train.learning_rate": 1e-5, "method.rank": 64, "train.weight_decay": 30}),
        (["experiment=instruct", "method=spiel_ma"],
         {"train.learning_rate": 1e-3, "method.rank": 64, "method.density": None, "train.weight_decay": 0.3}),
        (["experiment=instruct", "method=spiel_ma", "model=llama2_13b"],
         {"train.learning_rate": 4e-4, "method.rank": 64, "train.weight_decay": 0}),
        (["experiment=instruct", "method=full"], {"train.learning_rate": 2e-5}),
    ],
)  # fmt: skip
def test_recipes_have_the_theses_numbers(words: list[str], expected: dict[str, Any]) -> None:
    config = compose([*words, "scale=thesis", "data=empty"])
    assert {name: OmegaConf.select(config, name) for name in expected} == expected


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("file", options("table"))
def test_a_tables_rows_train_by_the_recipe_but_for_what_the_table_varies_on_purpose(file: str, scale: str) -> None:
    """A row is composed of its words as a command line is, so it trains the same if it gives no value of a recipe."""
    try:
        request = request_table([f"table={file}", f"scale={scale}"])
    except UsageError as error:
        assert "measured" in str(error) or "nothing to show" in str(error)
        return
    varied = next((keys for name, (keys, _) in VARIED.items() if re.fullmatch(name, file)), "nothing")
    for grid in request.grids.values():
        for name, system in grid.systems.items():
            words = run_words(grid, system, [], "fao")
            assert words[0] == f"experiment={system.experiment}"
            given = {f"{part}.{key}" for word in words for part, key in RECIPE_WORD.findall(word)}
            assert [key for key in sorted(given) if not re.fullmatch(varied, key)] == [], name


def test_no_system_has_a_value_of_a_recipe() -> None:
    for file in sorted((CONF / "system").glob("*.yaml")):
        if file.stem == "mad_x_nearest":  # §3.4.3: adapters of 48 units for every task
            continue
        assert not RECIPE_WORD.findall(file.read_text(encoding="utf-8")), file.name


def write(folder: Path, name: str, content: str) -> Path:
    file = folder / "recipes" / f"{name}.yaml"
    file.parent.mkdir(exist_ok=True)
    file.write_text(content, encoding="utf-8")
    return file


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """`own(folder, *words)`: composes with a folder of the user's."""
    before, GlobalHydra.instance().hydra = GlobalHydra.instance().hydra, None

    def own(folder: Path, *words: str) -> Any:
        with hydra_ready(str(folder)):
            return compose([*words, "data=empty"])

    yield own
    GlobalHydra.instance().hydra = before
    register_recipes(CONFIG_MODULE)


def test_a_users_recipe_and_method_are_found_in_their_folder(own: Any, tmp_path: Path) -> None:
    write(
        tmp_path,
        "mine",
        "like: pos\nmini:\n  my_adapter: {train: {learning_rate: 0.5}, method: {where: both_sublayers}}\n",
    )
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "my_adapter.yaml").write_text("defaults: [mad_x, _self_]\ninvertible: false\n")
    config = own(tmp_path, "recipe=mine", "method=my_adapter")
    assert (config.train.learning_rate, config.method.where, config.method.invertible) == (0.5, "both_sublayers", False)
    assert (config.train.max_steps, config.choices.method) == (500, "my_adapter")
    assert own(tmp_path, "recipe=mine").train.learning_rate == 3e-4


def test_a_users_recipe_is_gone_when_another_folder_is_used(own: Any, tmp_path: Path) -> None:
    write(tmp_path, "mine", "like: pos\n")
    own(tmp_path, "recipe=mine")
    (tmp_path / "other").mkdir()
    with pytest.raises(UsageError, match="no recipe/mine"):
        own(tmp_path / "other", "recipe=mine")


@pytest.mark.parametrize(
    ("content", "facts"),
    [
        ("mini:\n  madx: {train: {epochs: 1}}\n", ["mini.madx", "no method/madx", "mad_x"]),
        ("mini:\n  mad_x on mbrt: {train: {epochs: 1}}\n", ["mad_x on mbrt", "no model/mbrt", "mbert"]),
        ("mini:\n  mad_x: {learning_rate: 1}\n", ["mini.mad_x", "train or method"]),
        ("large:\n  mad_x: {train: {epochs: 1}}\n", ["large", "mini or thesis"]),
        ("like: poss\n", ["like=poss", "pos"]),
        ("like: mine\n", ["like=mine"]),
        ("mini:\n  full: {train: {epochs: 1}}\n  full: {train: {epochs: 2}}\n", ["full is there twice", "line 2"]),
        ("mini: [\n", ["not to be read"]),
        ("", ["empty"]),
    ],
)
def test_a_wrong_recipe_is_a_line_that_says_file_and_place(
    content: str, facts: list[str], own: Any, tmp_path: Path
) -> None:
    file = write(tmp_path, "mine", content)
    with pytest.raises(UsageError) as raised:
        own(tmp_path)
    (line,) = raised.value.lines
    assert "\n" not in line
    assert all(fact in line for fact in [str(file), *facts])


def test_a_value_that_no_method_has_is_a_line(own: Any, tmp_path: Path) -> None:
    write(tmp_path, "mine", "mini:\n  lt_sft: {method: {densty: 0.1}}\n")
    with pytest.raises(UsageError, match=r"densty"):
        own(tmp_path, "recipe=mine")
