"""params.yaml: what is wrong is said in one sentence that names the key and what would do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from cl.errors import UserError
from cl.names import closest, names_in
from cl.params import Params, read
from cl.register import checked, method_class
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
        ("selection: {learning_rates: []}\n", ("selection.learning_rates", "at least one")),
        ("selection: {drop_margin: 1.5}\n", ("selection.drop_margin", "less than or equal to 1", "1.5")),
        ("selection: {decay: 1}\n", ("selection.decay", "less than 1")),
        ("selection: {max_attempts: 0}\n", ("selection.max_attempts", "0")),
        ("seeds: [0, 0]\n", ("seeds", "twice")),
        ("seeds: []\n", ("seeds", "at least one")),
        ("seeds: [-1]\n", ("seeds.0", "-1")),
        ("seeds: 3\n", ("seeds", "list", "3")),
        ("model: {name: vgg}\n", ("model.name", "'mlp'", "'vgg'")),
        ("model: {hidden: []}\n", ("model.hidden", "at least one")),
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
        ("methods: {}\n", ("methods: has to hold at least one item, not {}",)),
        ("methods: [ewc, si]\n", ("methods", "mapping")),
        ("methods: null\n", ("methods", "mapping")),
        ("seeds: [0]\n", ("methods", "required")),
        ("methods: {ewc: {strenght: 1.0}}\n", ("methods.ewc.strenght", "did you mean 'strength'?")),
        ("methods: {ewc: {strength: -1}}\n", ("methods.ewc.strength", "has to lie between 0 and", "-1")),
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
    with pytest.raises(UserError, match=r"nowhere\.yaml: cannot be read .*`unforgetting studies` lists"):
        read(tmp_path / "nowhere.yaml")
    with pytest.raises(UserError, match="cannot be read"):
        read(tmp_path)
    with pytest.raises(UserError, match=r"did you mean .*studies/photos\.yaml\?"):
        read(Path("photos"))
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
    assert title(scenario={"batch_size": 7, "unsupported": "leave-out"}) == "permuted-digits"
    online = {"scenario": {"name": "class", "online": True}, "selection": {"enabled": False}}
    assert title(**online) == "permuted-digits, online class-incremental"
    assert title(selection={"strategy": "pareto"}) == "permuted-digits, pareto search, stability on holdout"
    assert title(selection={"strategy": "pareto", "enabled": False}) == "permuted-digits"
    assert title(benchmark={"name": "folder", "path": "~/pictures/My screws v1.2/"}) == "My-screws-v1-2"
    here = Path.cwd().name.replace(".", "-")
    assert title(benchmark={"name": "folder", "path": "."}, scenario={"name": "class"}) == f"{here}, class-incremental"
    assert title(benchmark={"name": "tiny-imagenet", "path": "somewhere"}) == "tiny-imagenet"


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


def test_one_spelling_of_a_method_everywhere(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("methods: {finetune: {}}\nothers: {Online_EWC: {strength: 400.0, gamma: 0.5}}\n")
    wanted = {"online_ewc": {"strength": 5, "gamma": 0.5}}
    for named in ("online-ewc", "online_ewc", "ONLINE-EWC"):
        for section in ("methods", "others"):
            for spelled in ("online-ewc", "Online_EWC"):
                assert dict(read(path, [f"{section}.{spelled}.strength=5"], [named]).methods) == wanted
    assert read(path, ["methods.online-ewc.strength=5"]).methods == {"finetune": {}, **wanted}
    assert read(path, ["methods={Online-EWC: {strength: 5}}"]).methods == wanted
    over = tmp_path / "over.yaml"
    over.write_text("extends: params.yaml\nmethods: {mean-IMM: {}}\nothers: {online-ewc: {strength: 5}}\n")
    assert dict(read(over, methods=["online-ewc"]).methods) == wanted


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        (
            "methods: {online_ewc: {}, online-ewc: {}}",
            [],
            "params.yaml: methods: online_ewc stands twice, as online_ewc",
        ),
        ("others: {online_ewc: {}, online-ewc: {}}", [], "params.yaml: others: online_ewc stands twice, as online_ewc"),
        (
            "",
            ["methods={ewc: {}, EWC: {}}"],
            "--set methods={ewc: {}, EWC: {}}: methods: ewc stands twice, as ewc and EWC",
        ),
        (
            "",
            ["methods.ewd.strength=3"],
            "--set methods.ewd.strength=3: methods: unknown method 'ewd'; did you mean 'ewc'?",
        ),
        ("", ["others.gs.subsets=3"], "--set others.gs.subsets=3: others: unknown method 'gs'; did you mean 'gss'?"),
        (
            "others: {gss: {memroy_budget: 3}}",
            [],
            "params.yaml: others.gss.memroy_budget: GSS has no such knob; did you",
        ),
        ("others: {gss: {subsets: many}}", [], "params.yaml: others.gss.subsets: has to be of type int, not 'many'"),
        ("others: {gss: {subsets: 0}}", [], "params.yaml: others.gss.subsets: has to lie between 1 and"),
        ("others: {gss: 3}", [], "params.yaml: others.gss: has to be a mapping"),
        ("others: {gss: {subsets: {a: 1}}}", [], "params.yaml: others.gss.subsets: has to be a finite number"),
        (
            "",
            ["others.gss.subets=3"],
            "--set others.gss.subets=3: others.gss.subets: GSS has no such knob; did you mean",
        ),
        ("", ["methods.ewc.Strength=3"], "methods.ewc.Strength: EWC has no such knob; did you mean 'strength'?"),
        ("", ["methods.ewc.STRENGTH=3"], "did you mean 'strength'?"),
        ("", ["methods.ebll.code-strength=3"], "did you mean 'code_strength'?"),
        ("", ["methods.ewc.self=3"], "methods.ewc.self: EWC has no such knob"),
        ("", [f"methods.ewc.strength={'9' * 400}"], "methods.ewc.strength: has to be a finite number"),
        ("", ["methods.ewc.strength=null"], "methods.ewc.strength: has to be of type float, not 'null'"),
    ],
)
def test_what_is_wrong_with_methods_is_said_of_where_it_stands(
    text: str, options: list[str], words: str, tmp_path: Path
) -> None:
    message = refused(tmp_path, f"{text}\n" if "methods:" in text else f"{GOOD}{text}\n", overrides=options)
    assert words in message


def test_learning_rate_of_one_method(tmp_path: Path) -> None:
    text = "methods: {ewc: {learning_rate: 1, strength: 2}, si: {}}\nselection: {enabled: false}\n"
    params = checked(given(tmp_path, text))
    assert [params.learning_rate(name) for name in params.methods] == [1.0, params.training.learning_rate]
    refused(tmp_path, text, "methods.ewc.learning_rate", "between", overrides=["methods.ewc.learning_rate=0"])
    refused(tmp_path, text, "methods.ewc.learning_rate", "float", overrides=["methods.ewc.learning_rate=fast"])
    off = "selection.enabled=false"
    refused(tmp_path, text, "methods.ewc.learning_rate", off, overrides=["selection.enabled=true"])


def test_methods_that_are_not_run_are_checked_too(tmp_path: Path) -> None:
    text = "methods: {finetune: {}, ewc: {strenght: 1}}\nothers: {gss: {subsets: 2}}\n"
    with pytest.raises(UserError, match=r"params\.yaml: methods\.ewc\.strenght: EWC has no such knob"):
        checked(given(tmp_path, text, methods=["finetune"]))
    with pytest.raises(UserError, match=r"--set methods\.si\.x=1: methods\.si\.x: SI has no such knob"):
        checked(given(tmp_path, GOOD, ["methods.si.x=1"], ["finetune"]))
    params = given(tmp_path, text.replace("strenght", "strength"), methods=["finetune"])
    assert checked(params).methods == {"finetune": {}}
    assert "others" not in params.model_dump()  # it changes nothing of what is run


def test_a_method_has_the_knobs_of_both_sections(tmp_path: Path) -> None:
    """However it comes to be run."""
    text = "methods: {finetune: {}}\nothers: {gss: {subsets: 2, together: 4}}\n"
    wanted = {"subsets": 2, "together": 5}
    for options in (["methods.gss.together=5"], ["methods={gss: {together: 5}}"], ["others.gss.together=5"]):
        named = ["gss"] if options[0].startswith("others") else None
        assert given(tmp_path, text, options, named).methods["gss"] == wanted
    for options in (["methods=all", "methods.gss.together=5"], ["methods.gss.together=5", "methods=all"]):
        assert given(tmp_path, text, options).methods["gss"] == wanted


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("", "--set : has to read key.path=value"),
        ("=", "--set =: has to read key.path=value"),
        ("a..b=1", "--set a..b=1: has to read key.path=value"),
        (".a=1", "has to read key.path=value"),
        (".".join("x" * 1000) + "=3", "has to read key.path=value"),
        ("training.epochs=", "--set training.epochs=: gives no value; write null for none"),
        ("methods=3", "--set methods=3: methods: has to be a mapping from a method's name"),
        ("methods.ewc=3", "--set methods.ewc=3: methods.ewc: has to be a mapping, such as {strength: 1.0}, not 3"),
        ("seeds=5", "--set seeds=5: seeds: has to be a list, such as [1, 2], not 5"),
        ("seeds=0,1", "seeds: has to be a list, such as [1, 2], not '0,1'"),
        ("seeds=[&a [*a]]", "--set seeds=[&a [*a]]: not a YAML value: line 1, column 6: *a stands within"),
        ("seeds=" + "[" * 1000, "nested more than 20 deep"),
        ("benchmark=5", "--set benchmark=5: benchmark: has to be a section with keys of its own, not 5"),
        ("benchmark.order={a: b}", "benchmark.order: has to be a name, or names in brackets"),
        ("benchmark.order=[]", "benchmark.order: has to be a name, or names in brackets"),
        ("benchmark.path=\udcff", "benchmark.path: has to be text without bytes that are no UTF-8 text"),
        ("benchmark.\udcff=1", "a key has to be text without bytes that are no UTF-8 text"),
        ("benchmark.path=a\nb", "benchmark.path: has to be text without the control character '\\n'"),
        ("benchmark.path=~", "benchmark.path: ~ alone is null in YAML; write null for none, or put it in quotes"),
        ("training.epochs=" + "9" * 5000, "... (5002 characters)"),
        ("selection.enabled=yes", "selection.enabled: has to be true or false, not 'yes'"),
        ("training.momentum=a bit", "training.momentum: has to be a number, such as 0.1 or 1e-3, not 'a bit'"),
    ],
)
def test_more_bad_overrides(override: str, words: str, tmp_path: Path) -> None:
    message = refused(tmp_path, GOOD, overrides=[override])
    assert words in message
    assert message.isprintable()
    assert len(message) < 700


@pytest.mark.parametrize(
    "override",
    [
        "tracking.uri=http://me:hunter2@host\n",
        "tracking.uri=me:hunter2@host\x00",
        "tracking.url=me:hunter2@host",
        "traking.uri=http://me:hunter2@host/a",
        "tracking.uri:http://me:hunter2@host",
        "tracking={uri: hunter2, b: 3}",
        "tracking=[hunter2]",
        "execution.address=tcp://me:hunter2@host\n",
        "execution={address: [hunter2]}",
    ],
)
def test_passwords_are_not_repeated(override: str, tmp_path: Path) -> None:
    message = refused(tmp_path, GOOD, "--set", overrides=[override])
    assert "hunter2" not in message
    for file in ("tracking: {uri: [hunter2]}\n", "tracking: [hunter2]\n", "execution: {address: {a: hunter2}}\n"):
        assert "hunter2" not in refused(tmp_path, file + GOOD)


def test_a_fault_in_a_file_that_is_extended_is_said_of_that_file(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("training: {epochs: 0, batch_size: 0}\nothers: {gss: {subets: 3}}\n")
    over = tmp_path / "over.yaml"
    over.write_text(f"extends: base.yaml\ntraining: {{batch_size: -1}}\n{GOOD}")
    with pytest.raises(UserError) as caught:
        read(over)
    assert f"{tmp_path / 'base.yaml'}: training.epochs: " in str(caught.value)
    assert f"{over}: training.batch_size: " in str(caught.value)
    with pytest.raises(UserError, match=r"base\.yaml: others\.gss\.subets: "):
        checked(read(over, ["training.epochs=1", "training.batch_size=1"]))


def test_closest() -> None:
    assert closest("sedes", ["seeds", "model"]) == "did you mean 'seeds'?"
    assert closest("x", ["seeds", "model"]) == "known: seeds, model"
    assert closest("SEEDS", ["seeds", "model"]) == "did you mean 'seeds'?"


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
        ("extends: over.yaml\n", "each other in a circle"),
        ("extends: [3]\n", "has to be the path of a file"),
        ("extends: gone.yaml\n", r"gone\.yaml: cannot be read"),
    ):
        over.write_text(text)
        with pytest.raises(UserError, match=words):
            read(over)


@pytest.mark.parametrize("study", sorted((REPOSITORY / "studies").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_study_is_a_valid_params_file(study: Path) -> None:
    params = read(study)
    checked(params)
    of_three = {
        f"three-scenarios-{more}{name}": 8 if name == "class" else 7
        for more in ("", "permuted-")
        for name in ("task", "domain", "class")
    }
    in_one_pass = {"one-pass-cifar100": 10, "online-class-split-mnist": 4, "online-class-split-mnist-tasks": 7}
    others = {
        "online-class-split-digits": 5,
        "photos": 10,
        "photos-compared": 13,
        "repetition": 7,
        **of_three,
        **in_one_pass,
    }
    assert len(params.methods) == others.get(study.stem, 15)
    assert study.read_text().startswith("# "), "says what it is for"
