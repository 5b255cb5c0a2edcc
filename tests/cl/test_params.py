"""params.yaml: what is wrong is said in one sentence that names the key and what would do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from cl.errors import UserError
from cl.method import checked, method_class
from cl.params import Params, closest, names_in, read
from tests.cl.small import REPOSITORY

GOOD = "methods: {finetune: {}, ewc: {strength: 100}}\n"


def given(folder: Path, text: str | bytes, overrides: Sequence[str] = (), methods: list[str] | None = None) -> Params:
    path = folder / "params.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read(path, overrides, methods)


def refused(folder: Path, text: str | bytes, *said: str, overrides: Sequence[str] = ()) -> str:
    with pytest.raises(UserError) as caught:
        checked(given(folder, text, overrides))
    message = str(caught.value)
    assert "\n" not in message
    for part in said:
        assert part in message
    return message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("trainning: {epochs: 3}\n", ("trainning: unknown key", "did you mean 'training'?")),
        ("training: {epoch: 3}\n", ("training.epoch: unknown key", "did you mean 'epochs'?")),
        ("training: {patience: {drop: 3}}\n", ("training.patience.drop: unknown key", "drop_after")),
        ("training: {epochs: 0}\n", ("training.epochs", "greater than or equal to 1", "0")),
        ("training: {epochs: many}\n", ("training.epochs", "integer", "'many'")),
        ("training: {epochs: 2.5}\n", ("training.epochs", "integer", "2.5")),
        ("training: {epochs: true}\n", ("training.epochs", "integer", "True")),
        ("training: {momentum: 1}\n", ("training.momentum", "less than 1")),
        ("training: {learning_rate: .nan}\n", ("training.learning_rate", "nan")),
        ("training: {learning_rate: .inf}\n", ("training.learning_rate", "inf")),
        ("training: {learning_rate: -0.1}\n", ("training.learning_rate", "-0.1")),
        ("training: [1]\n", ("training: has to be a section", "[1]")),
        ("training: null\n", ("training", "None")),
        ("selection: {learning_rates: [0.1, 0.1]}\n", ("selection.learning_rates", "twice")),
        ("selection: {learning_rates: []}\n", ("selection.learning_rates", "at least 1")),
        ("selection: {drop_margin: 1.5}\n", ("selection.drop_margin", "less than or equal to 1", "1.5")),
        ("selection: {decay: 1}\n", ("selection.decay", "less than 1")),
        ("selection: {max_attempts: 0}\n", ("selection.max_attempts", "0")),
        ("seeds: [0, 0]\n", ("seeds", "twice")),
        ("seeds: []\n", ("seeds", "at least 1")),
        ("seeds: [-1]\n", ("seeds.0", "-1")),
        ("seeds: 3\n", ("seeds", "list", "3")),
        ("model: {name: vgg}\n", ("model.name", "'mlp'", "'vgg'")),
        ("model: {hidden: []}\n", ("model.hidden", "at least 1")),
        ("benchmark: {name: permuted-digit}\n", ("benchmark.name", "did you mean 'permuted-digits'?")),
        ("benchmark: {tasks: 0}\n", ("benchmark.tasks", "0")),
        ("execution: {device: gpu}\n", ("execution.device", "'cuda'", "'gpu'")),
        ("tracking: {url: x}\n", ("tracking.url: unknown key", "did you mean 'uri'?")),
    ],
)
def test_bad_values(tmp_path: Path, text: str, said: tuple[str, ...]) -> None:
    assert "params.yaml" in refused(tmp_path, GOOD + text, *said)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("methods: {ewd: {}}\n", ("methods", "unknown method 'ewd'", "did you mean 'ewc'?")),
        ("methods: {zzzzzz: {}}\n", ("unknown method 'zzzzzz'", "known:", "finetune")),
        ("methods: {}\n", ("methods: has to hold at least 1, not {}",)),
        ("methods: [ewc, si]\n", ("methods", "mapping")),
        ("methods: null\n", ("methods", "mapping")),
        ("seeds: [0]\n", ("methods", "required")),
        ("methods: {ewc: {strenght: 1.0}}\n", ("methods.ewc.strenght", "did you mean 'strength'?")),
        ("methods: {ewc: {strength: -1}}\n", ("methods.ewc.strength", "has to lie in 0 to", "-1")),
        ("methods: {ewc: {strength: high}}\n", ("methods.ewc.strength", "float", "'high'")),
        ("methods: {ewc: {strength: [1]}}\n", ("methods.ewc.strength",)),
        ("methods: {ewc: {estimator: exact}}\n", ("methods.ewc.estimator", "per-sample, batch-sum", "'exact'")),
        ("methods: {packnet: {retrain_epochs: 2.5}}\n", ("methods.packnet.retrain_epochs", "int", "2.5")),
        ("methods: {ewc: [1]}\n", ("methods.ewc", "[1]")),
        ("methods: {ewc: false}\n", ("methods.ewc",)),
        ("methods: {mean-IMM: {}, mean_imm: {strength: 1}}\n", ("methods", "mean_imm", "twice")),
    ],
)
def test_bad_methods(tmp_path: Path, text: str, said: tuple[str, ...]) -> None:
    refused(tmp_path, text, *said)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("methods: {ewc: {}\n", ("params.yaml", "not valid YAML", "line 2, column 1: expected ',' or '}'")),
        ("- 1\n", ("params.yaml", "mapping of sections")),
        ("methods: {ewc: {}}\nmethods: {si: {}}\n", ("'methods'", "stands twice")),
        ("methods: {ewc: {strength: 1, strength: 2}}\n", ("'strength'", "stands twice")),
        ("methods: {ewc: {}}\n? [1, 2]\n: 3\n", ("params.yaml",)),
        ("seeds: {{ seeds }}\n", ("params.yaml",)),
        (b"methods: {\xff: {}}\n", ("params.yaml",)),
        ("\x00", ("params.yaml", "not valid YAML")),
        ("methods: !!python/object:os.system {}\n", ("params.yaml", "not valid YAML")),
        ("1: 2\nmethods: {ewc: {}}\n", ("params.yaml: 1: ", "unknown key")),
    ],
)
def test_bad_files(tmp_path: Path, text: str | bytes, said: tuple[str, ...]) -> None:
    refused(tmp_path, text, *said)


def test_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.yaml: cannot be read .*--params"):
        read(tmp_path / "nowhere.yaml")
    with pytest.raises(UserError, match="cannot be read"):
        read(tmp_path)
    with pytest.raises(UserError, match=r"did you mean .*studies/tiny-imagenet-wide\.yaml\?"):
        read(REPOSITORY / "studies" / "tiny-imagenet-wid")


def test_all_faults_are_named_at_once(tmp_path: Path) -> None:
    refused(tmp_path, GOOD + "seeds: [-1]\ntraining: {epochs: 0}\n", "seeds.0", "training.epochs")


def test_a_fault_is_said_of_what_brought_it_in(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD + "training: {epochs: 0, batch_size: 2}\n")
    with pytest.raises(UserError) as caught:
        read(path, ["training.batch_size=many", "model.hidden=[0]", "trainning.epochs=3"], seeds=[1, 1])
    said = str(caught.value)
    assert f"{path}: training.epochs: " in said
    assert "--set training.batch_size=many: training.batch_size: " in said
    assert "--set model.hidden=[0]: model.hidden.0: " in said
    assert "--set trainning.epochs=3: trainning: unknown key" in said
    assert "--seeds: seeds: holds the same seed twice" in said


def test_folder_benchmark_needs_its_path(tmp_path: Path) -> None:
    if "folder" in names_in("data/benchmarks"):
        refused(tmp_path, GOOD + "benchmark: {name: folder}\n", "benchmark.path", "<task>/<class>/<image>")


def test_numbers_as_people_write_them(tmp_path: Path) -> None:
    text = "methods: {ewc: {strength: 1e3}}\ntraining: {learning_rate: 1e-3, weight_decay: 5E-4}\n"
    params = given(tmp_path, text + "selection: {learning_rates: [1e-1, 1.5e-2, 3e+0]}\n")
    assert params.training.learning_rate == 0.001
    assert params.training.weight_decay == 0.0005
    assert params.methods["ewc"]["strength"] == 1000.0
    assert params.selection.learning_rates == [3.0, 0.1, 0.015]


@pytest.mark.parametrize("name", ["mean-IMM", "mean_imm", "Mean-Imm", "MEAN_IMM"])
def test_spellings_of_a_method(tmp_path: Path, name: str) -> None:
    params = given(tmp_path, f"methods: {{{name}: {{strength: 0.5}}}}\n")
    assert params.methods == {"mean_imm": {"strength": 0.5}}
    assert given(tmp_path, f"methods: {{{name}: {{strength: 0.5}}}}\n", methods=["Mean-IMM"]) == params


def test_methods_given_apart_keep_the_files_knobs(tmp_path: Path) -> None:
    params = given(tmp_path, GOOD, methods=["ewc", "si"])
    assert params.methods == {"ewc": {"strength": 100}, "si": {}}
    with pytest.raises(UserError, match=r"--methods: unknown method 'ewd'.*'ewc'"):
        given(tmp_path, GOOD, methods=["ewd"])
    with pytest.raises(UserError, match=r"methods: .*mapping"):
        given(tmp_path, "methods: [ewc]\n", methods=["ewc"])


def test_overrides(tmp_path: Path) -> None:
    overrides = ["training.epochs=3", "selection.learning_rates=[1e-3, 0.1]", "seeds=[4]"]
    overrides += ["methods.ewc.strength=2.5", "training.patience.drop_after=2", "selection.enabled=false"]
    params = given(tmp_path, GOOD, [*overrides, "methods.lwf={}"])
    assert params.training.epochs == 3
    assert params.training.patience.drop_after == 2
    assert params.selection.learning_rates == [0.1, 0.001]
    assert not params.selection.enabled
    assert params.seeds == [4]
    assert params.methods == {"finetune": {}, "ewc": {"strength": 2.5}, "lwf": {}}
    assert given(tmp_path, "methods:\n  ewc:\n", ["methods.ewc.strength=1"]).methods == {"ewc": {"strength": 1}}


def test_all_methods_keep_the_knobs_of_the_file(tmp_path: Path) -> None:
    """However they are asked for: by an option, laid over, or in a file that extends another."""
    text = "methods: {lwf: {strength: 1.0}}\nothers: {gss: {memory_budget: 7}}\n"
    (tmp_path / "base.yaml").write_text(text)
    over = tmp_path / "over.yaml"
    over.write_text("extends: base.yaml\nmethods: all\n")
    found = [
        read(over),
        given(tmp_path, text, ["methods=all"]),
        read(tmp_path / "base.yaml", methods=names_in("methods")),
    ]
    for params in found:
        assert set(params.methods) == set(names_in("methods"))
        assert (params.methods["lwf"], params.methods["gss"]) == ({"strength": 1.0}, {"memory_budget": 7})


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("training.epoch=3", ("training.epoch: unknown key", "'epochs'")),
        ("trainings.epochs=3", ("trainings: unknown key", "'training'")),
        ("training.epochs=x", ("training.epochs", "integer", "'x'")),
        ("training.epochs=", ("--set training.epochs=", "no value", "null")),
        ("training.epochs", ("--set training.epochs", "key.path=value")),
        ("=3", ("--set =3", "key.path=value")),
        ("seeds.0.1=3", ("--set seeds.0.1=3", "not a section")),
        ("seeds=[1", ("--set seeds=[1", "not a YAML value")),
        ("methods.ewc.strength=-1", ("methods.ewc.strength", "-1")),
        ("methods.nope.strength=1", ("unknown method 'nope'",)),
    ],
)
def test_bad_overrides(tmp_path: Path, override: str, said: tuple[str, ...]) -> None:
    refused(tmp_path, GOOD + "seeds: [1]\n", *said, overrides=[override])


def test_params_cannot_be_changed_afterwards(tmp_path: Path) -> None:
    params = given(tmp_path, GOOD)
    with pytest.raises(ValueError, match="frozen"):
        params.training.epochs = 3


def test_the_repositorys_own_params() -> None:
    params = read(REPOSITORY / "params.yaml")
    checked(params)
    assert set(params.methods) <= set(names_in("methods"))
    assert {"finetune", "joint"} <= set(params.methods)
    beyond = {"er", "derpp"}  # of the survey's methods
    for name, knobs in params.methods.items():
        if name not in beyond:
            assert set(knobs) == set(method_class(name).knobs), f"{name}: every knob stands in params.yaml"


def test_titles_keep_apart_what_is_not_ranked_together() -> None:
    def title(**sections: object) -> str:
        return Params.model_validate({"methods": {"finetune": {}}, **sections}).title

    assert title() == "permuted-digits"
    assert title(scenario={"batch_size": 7, "unable": "leave-out"}) == "permuted-digits"
    online = {"scenario": {"name": "class", "online": True}, "selection": {"enabled": False}}
    assert title(**online) == "permuted-digits, online class-incremental"
    assert title(selection={"strategy": "pareto"}) == "permuted-digits, pareto search, stability on holdout"
    assert title(selection={"strategy": "pareto", "enabled": False}) == "permuted-digits"


def test_others_are_run_when_named(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("methods: {finetune: {}}\nothers: {A-GEM: {margin: 2.0, memory_budget: 7}}\n")
    assert list(read(path).methods) == ["finetune"]
    assert dict(read(path, methods=["a_gem"]).methods) == {"a_gem": {"margin": 2.0, "memory_budget": 7}}
    set_too = read(path, ["methods.a_gem.margin=3.0"], ["a_gem", "finetune"])
    assert dict(set_too.methods) == {"a_gem": {"margin": 3.0, "memory_budget": 7}, "finetune": {}}
    path.write_text("methods: all\nothers: {a_gem: {margin: 2.0}}\n")
    assert dict(read(path).methods)["a_gem"] == {"margin": 2.0}
    for wrong, why in (("others: 3", "others: has to be a mapping"), ("others: {a_gme: {}}", "did you mean 'a_gem'")):
        path.write_text(f"methods: {{finetune: {{}}}}\n{wrong}\n")
        with pytest.raises(UserError, match=why):
            read(path)


def test_closest() -> None:
    assert closest("sedes", ["seeds", "model"]) == "did you mean 'seeds'?"
    assert closest("x", ["seeds", "model"]) == "known: seeds, model"


def test_a_file_may_extend_another(tmp_path: Path) -> None:
    base = "model: {name: base}\ntraining: {epochs: 3, momentum: 0.5}\nmethods: {gem: {margin: 2}}\n"
    (tmp_path / "base.yaml").write_text(base)
    (tmp_path / "below").mkdir()
    over = tmp_path / "below" / "over.yaml"
    over.write_text("extends: ../base.yaml\ntraining: {epochs: 5}\nmethods: {gem: {memory_per_task: 7}, ewc: }\n")
    params = read(over, ["training.batch_size=9"])
    assert (params.model.name, params.training.epochs, params.training.momentum) == ("base", 5, 0.5)
    assert params.training.batch_size == 9
    assert params.methods == {"gem": {"margin": 2, "memory_per_task": 7}, "ewc": {}}
    for text, words in (
        ("extends: over.yaml\n", "does not extend it"),
        ("extends: [3]\n", "has to be the name of a file"),
        ("extends: gone.yaml\n", r"gone\.yaml: cannot be read"),
    ):
        over.write_text(text)
        with pytest.raises(UserError, match=words):
            read(over)


@pytest.mark.parametrize("study", sorted((REPOSITORY / "studies").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_study_is_a_valid_params_file(study: Path) -> None:
    params = read(study)
    checked(params)
    assert len(params.methods) == (5 if params.scenario.online else 15)
    assert study.read_text().startswith("# "), "says what it is for"
