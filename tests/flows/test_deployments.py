"""The forms of the deployments, and the names of flow runs. (What they start: test_serve.py.)"""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from cl.errors import Stopped, UserError
from cl.names import names_in
from cl.params import Params, read
from flows.engine.plain import Engine
from flows.naming import named
from tests.flows.conftest import REPOSITORY, SMALL, Finished

FILE = REPOSITORY / "params.yaml"


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)


def test_the_form_is_filled_in_as_params_yaml_says() -> None:
    from flows import deployments

    for flow in (deployments.compare, deployments.nightly, deployments.add_task, deployments.report):
        defaults = {name: field.default for name, field in inspect.signature(flow.fn).parameters.items()}
        assert None not in defaults.values()
        given = {name: value for name, value in defaults.items() if name != "workers"}
        assert deployments.chosen(**given) == read(FILE)
        assert "chosen" not in (flow.description or "")


def test_what_the_form_gives_is_set() -> None:
    from flows.deployments import chosen

    params = chosen("split-digits", "3", ["ewc"], 7, 1, [4], ["training.batch_size=50"], out="out/try")
    assert (params.benchmark.name, params.benchmark.tasks, list(params.methods)) == ("split-digits", 3, ["ewc"])
    assert (params.training.epochs, params.execution.workers, params.seeds) == (7, 1, [4])
    assert params.training.batch_size == 50
    everything = chosen(methods=["all", "ewc"])
    assert set(everything.methods) <= set(names_in("methods"))
    assert len(everything.methods) > len(read(FILE).methods)
    with pytest.raises(UserError, match=r"training\.epoch: unknown key"):
        chosen(settings=["training.epoch=3"])


def test_a_flow_run_ends_in_a_state_with_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the form holds what cannot be."""
    from flows import deployments

    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setattr(deployments, "shown_folder", lambda: None)
    form = {name: field.default for name, field in inspect.signature(deployments.compare.fn).parameters.items()}
    form["out"] = str(tmp_path)
    refused = deployments.compare.fn(**form | {"settings": ["training.epoch=3"]})
    assert refused.is_failed()
    assert refused.message == "--set training.epoch=3: training.epoch: unknown key; did you mean 'epochs'?"

    def stopped(params: Params, out: Path, engine: Engine) -> str:
        raise Stopped("1 of 2 runs are finished")

    monkeypatch.setattr(deployments.comparison, "compare", stopped)
    cancelled = deployments.compare.fn(**form)
    assert (cancelled.is_cancelled(), cancelled.message) == (True, "1 of 2 runs are finished")


def test_the_message_of_a_comparison_is_its_headline(finished: Finished, tmp_path: Path) -> None:
    from flows import deployments

    out = finished.copy(tmp_path / "out")
    given = {"methods": ["finetune", "ewc"], "seeds": [0, 1], "settings": list(SMALL), "out": str(out)}
    state = deployments._run(deployments.comparison.compare, given)
    assert state.is_completed()
    assert state.message
    assert state.message in (out / "report/leaderboard.md").read_text()


@pytest.mark.parametrize(
    ("overrides", "methods", "seeds", "out", "name"),
    [
        ([], None, None, "out", "permuted-digits: 17 methods; 3 seeds"),
        ([], ["ewc"], [0], "out", "permuted-digits: ewc; 1 seed"),
        (["training.epochs=20"], ["ewc"], [0], "out", "permuted-digits: ewc; 1 seed; epochs=20"),
        (["methods.ewc.strength=5"], ["ewc", "gss"], [0], "out", "permuted-digits: ewc, gss; 1 seed; ewc.strength=5"),
        (["benchmark.name=split-digits"], ["si"], [1], "out/try", "split-digits: si; 1 seed; in out/try"),
        (["execution.workers=1"], ["si"], [1], "out", "permuted-digits: si; 1 seed"),
        (
            ["training.epochs=2", "training.batch_size=5", "training.momentum=0", "training.weight_decay=1"],
            ["si"],
            [1],
            "out",
            "permuted-digits: si; 1 seed; epochs=2; batch_size=5; momentum=0.0; 1 more setting",
        ),
    ],
)
def test_names_say_what_differs(
    overrides: list[str], methods: list[str] | None, seeds: list[int] | None, out: str, name: str
) -> None:
    found, tags = named(read(FILE, overrides, methods, seeds), read(FILE), Path(out))
    assert found == name
    assert tags[0] == name.partition(":")[0]
    assert any(tag.startswith("git:") for tag in tags)
