"""Passwords and tokens of servers: in nothing that is written, nor in anything that is said."""

from __future__ import annotations

import json
from pathlib import Path

from cl.children import Children, params_for_runs
from cl.params import Params, read
from flows import serve
from flows.tracking.settings import Tracking
from tests.flows.conftest import Finished, options, published, run

MLFLOW = "http://user:sesame-a@sesame-b/sesame-c@127.0.0.1:9/?token=sesame-d"
PREFECT = "http://user:sesame-e/sesame-f@127.0.0.1:9/api"
ENVIRONMENT = {
    "PREFECT_API_URL": PREFECT,
    "PREFECT_API_AUTH_STRING": "admin:sesame-g",
    "MLFLOW_TRACKING_USERNAME": "sesame-h",
    "MLFLOW_TRACKING_PASSWORD": "sesame-i",
}
SECRET = b"sesame"


def test_runs_are_not_told_where_they_are_tracked(tmp_path: Path) -> None:
    given = {"methods": {"ewc": {"strength": 3.0}}, "tracking": {"uri": MLFLOW}, "training": {"epochs": 7}}
    params = Params.model_validate(given)
    children = Children(params, tmp_path, lambda run, event: None)
    (path,) = (tmp_path / ".work").glob("params-*.json")
    assert SECRET not in path.read_bytes()
    assert read(path) == params.model_copy(update={"tracking": type(params.tracking)()})
    children.close()
    assert SECRET not in params_for_runs(params)


def test_no_password_is_written_or_said(finished: Finished, tmp_path: Path) -> None:
    """A whole run, some of it trained, on servers that are not there."""
    out = finished.copy(tmp_path / "out")
    settings = ["tracking.enabled=true", f"tracking.uri={MLFLOW}"]
    seen = [run("flows.compare", options(*settings, out=out, methods="finetune,si", seeds="0"), env=ENVIRONMENT)]
    seen += [run("flows.report", ["--show", *options(*settings, out=out, seeds="0")], env=ENVIRONMENT)]
    seen += [run("flows.provenance", options(*settings, out=out, seeds="0"), env=ENVIRONMENT)]
    seen += [
        run(
            "flows.champion",
            ["--method", "finetune", *options(*settings, out=out, methods="finetune", seeds="0")],
            env=ENVIRONMENT,
        )
    ]
    assert [done.returncode for done in seen] == [0, 0, 0, 2]
    assert "MLflow (http://127.0.0.1:9/?token=***): " in seen[3].stderr
    for done in seen:
        assert SECRET not in (done.stdout + done.stderr).encode(), done.args
        assert "Traceback" not in done.stderr
    written = [path for path in tmp_path.rglob("*") if path.is_file() and SECRET in path.read_bytes()]
    assert not written
    assert published(out, "finetune/seed-0") == published(finished.out, "finetune/seed-0")
    assert json.loads((out / "results/si/seed-0.json").read_bytes())["method"] == "si"


def test_the_address_of_a_server_elsewhere_is_shown_without_its_password(tmp_path: Path) -> None:
    where = Tracking(tmp_path, MLFLOW, "digits")
    assert where.target == "http://127.0.0.1:9/?token=***"
    assert where.address == "http://user:sesame-a%40sesame-b%2Fsesame-c@127.0.0.1:9/?token=sesame-d"
    assert SECRET.decode() not in serve.comparison_url(where.target, where)
