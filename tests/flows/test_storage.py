"""Results on the user's remote by the real DVC, experiments, and how commit, hash and MLflow run lead to each other."""

from __future__ import annotations

import configparser
import json
import re
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from cl.errors import UserError
from cl.files import SEAL, sealed
from flows.tracking import origin
from tests.flows.conftest import REPOSITORY, SECONDS, Finished, environment, everything, learned, run
from tests.flows.test_pipeline import METHODS, TRAIN, Clone, files, stages
from tests.flows.test_tracking import free_port, serving

SECRET = "a-key-that-opens-nothing"


class Colleague(Clone):
    """A clone of somebody's repository, with a cache of its own."""

    def __init__(self, folder: Path, of: Clone) -> None:
        self.root = folder / "clone"
        self.out = self.root / "out"
        self._env = {"DVC_SITE_CACHE_DIR": str(folder / "site"), "HOME": str(folder)}
        self.git("clone", "--quiet", str(of.root), str(self.root), cwd=folder)


def lock(made: Clone) -> dict[str, str]:
    """The hash of every output in dvc.lock, by path."""
    found = yaml.safe_load((made.root / "dvc.lock").read_text())["stages"].values()
    return {out["path"]: out["md5"] for stage in found for out in stage["outs"]}


def commit(made: Clone, message: str) -> str:
    made.git("commit", "--quiet", "--all", "--message", message, cwd=made.root)
    return made.git("rev-parse", "HEAD", cwd=made.root).stdout.strip()


def where_from(made: Clone) -> str:
    done = run("flows.provenance", [], cwd=made.root)
    assert done.returncode == 0, done.stderr
    return done.stdout


class Mlflow:
    """A tracking server of the real kind."""

    def __init__(self, port: int) -> None:
        self.uri = f"http://127.0.0.1:{port}"

    def runs(self, method: str) -> list[dict[str, Any]]:
        """The tags of each MLflow run, and its id as `run`."""
        body = {"experiment_ids": ["1"], "filter": f"tags.method = '{method}'"}
        request = urllib.request.Request(
            f"{self.uri}/api/2.0/mlflow/runs/search", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            found = json.load(answer).get("runs", [])
        tags = [{t["key"]: t["value"] for t in r["data"]["tags"]} | {"run": r["info"]["run_id"]} for r in found]
        return [tag for tag in tags if "mlflow.parentRunId" not in tag]


@pytest.fixture(scope="module", autouse=True)
def _compiling() -> Iterator[None]:
    """Python writes its compiled files beside the code, as it does for a user: they are no part of a stage."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
        yield


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mlflow]:
    folder = tmp_path_factory.mktemp("server")
    (folder / "mlflow").mkdir()
    port = free_port()
    with serving(folder, port):
        yield Mlflow(port)


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory, mlflow: Mlflow) -> Clone:
    """A finished run as its user leaves it: reproduced, tracked by a server, committed with its dvc.lock."""
    made = Clone(tmp_path_factory.mktemp("mine"), "tracking.enabled=true", f"tracking.uri={mlflow.uri}")
    for key, value in (("user.name", "a tester"), ("user.email", "tester@localhost")):
        made.git("config", key, value, cwd=made.root)
    commit(made, "settings")
    made.dvc("pull", "-r", "embedded", "data.dvc")
    assert stages(made.dvc("repro")) == ["features", "prepare", "report", *TRAIN]
    assert list(made.root.glob("cl/nets/__pycache__/*.pyc")), "the test would not see what they spoil"
    made.git("add", "dvc.lock", cwd=made.root)
    commit(made, "results")
    return made


@pytest.fixture
def remote(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """DVC's settings of a remote named `storage`: a folder, or a bucket on a server that speaks S3."""
    if request.param == "folder":
        yield [f"url={tmp_path / 'remote'}"]
        return
    if not (find_spec("dvc_s3") and find_spec("moto")):
        pytest.skip("needs dvc-s3 and moto: pip install -e '.[dev,s3]' 'moto[s3]'")
    import boto3
    from moto.server import ThreadedMotoServer

    for name, value in {"ACCESS_KEY_ID": "nobody", "SECRET_ACCESS_KEY": SECRET, "DEFAULT_REGION": "eu-west-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        address = "http://{}:{}".format(*server.get_host_and_port())
        place = {"LocationConstraint": "eu-west-1"}
        boto3.client("s3", endpoint_url=address).create_bucket(Bucket="lab", CreateBucketConfiguration=place)
        yield ["url=s3://lab/unforgetting", f"endpointurl={address}"]
    finally:
        server.stop()


@pytest.mark.slow
@pytest.mark.parametrize("remote", ["folder", "s3"], indirect=True)
def test_a_colleague_sees_the_same_report_without_training(remote: list[str], mine: Clone, tmp_path: Path) -> None:
    embedded = files(mine.root / ".dvc/embedded")
    mine.dvc("remote", "add", "--force", "-d", "storage", remote[0].removeprefix("url="))
    for setting in remote:
        mine.dvc("remote", "modify", "storage", *setting.split("=", 1))
    pushed = mine.dvc("push")
    assert re.search(r"\d+ files pushed", pushed)
    assert "up to date" in mine.dvc("push")
    assert files(mine.root / ".dvc/embedded") == embedded, "results are no business of the repository's own remote"
    commit(mine, "where the results are")

    theirs = Colleague(tmp_path, mine)
    theirs.dvc("pull")
    assert everything(theirs.out) == everything(mine.out)
    assert (theirs.root / "data/digits/digits.csv.gz").exists(), "from the repository's own remote, by the same command"
    shown = run("flows.report", ["--show"], cwd=theirs.root)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.startswith((mine.out / "report/leaderboard.md").read_text())
    assert "up to date" in theirs.dvc("status")
    again = theirs.dvc("repro")
    assert stages(again) == []
    assert not learned(again)
    assert not (theirs.out / ".work").exists()
    assert theirs.git("status", "--porcelain", cwd=theirs.root).stdout == ""

    said = where_from(theirs)  # who has no record of the training finds its runs by their tag
    assert said == where_from(mine)
    assert said.count("/runs/") == len(METHODS)
    for root in (mine.root, theirs.root):
        assert not [name for name, data in files(root / ".dvc").items() if SECRET.encode() in data]
        assert not [name for name, data in files(root / ".git").items() if SECRET.encode() in data]


@pytest.mark.slow
def test_a_colleague_changes_one_knob_and_trains_one_method(mine: Clone, tmp_path: Path) -> None:
    mine.dvc("remote", "add", "--force", "-d", "storage", str(tmp_path / "remote"))
    mine.dvc("push")
    commit(mine, "elsewhere")
    theirs = Colleague(tmp_path, mine)
    theirs.dvc("pull")
    theirs.set("methods.ewc.strength=30.0")
    changed = theirs.dvc("repro")
    assert stages(changed) == ["report", "train@ewc"]
    assert {run for run, _ in learned(changed)} == {"ewc/seed-0"}


@pytest.mark.slow
def test_commit_hash_and_run_lead_to_each_other(mine: Clone, mlflow: Mlflow, tmp_path: Path) -> None:
    kept = lock(mine)
    for method in METHODS:
        (tracked,) = [r for r in mlflow.runs(method) if r.get("dvc.results") == kept[f"out/results/{method}"]]
        assert tracked["dvc.checkpoints"] == kept[f"out/checkpoints/{method}"]
        assert tracked["dvc.stage"] == f"train@{method}"
        assert tracked["dvc.data"] == yaml.safe_load((mine.root / "data.dvc").read_text())["outs"][0]["md5"]
        settings = mine.git("rev-parse", ":/^settings", cwd=mine.root).stdout.strip()
        assert tracked["git.commit"] == settings, "the code it was trained with, clean though DVC rewrote dvc.lock"
        # From the run to the commit that has its files, and from the files back to the run.
        found = mine.git("log", "--format=%s", f"-S{run['dvc.results']}", "--", "dvc.lock", cwd=mine.root).stdout
        assert found.splitlines()[-1] == "results"
        said = where_from(mine)
        section = said[said.index(f"\n{method}\n") :].split("\n", 6)
        assert section[2].split() == ["dvc.results", kept[f"out/results/{method}"]]
        assert section[3].split() == ["dvc.checkpoints", kept[f"out/checkpoints/{method}"]]
        assert re.fullmatch(r"  dvc\.lock +of commit [0-9a-f]+ results", section[4])
        assert section[5].split() == [
            "seed-0",
            f"{mlflow.uri}/#/experiments/1/runs/{run['run']}?workflowType=machine_learning",
        ]


@pytest.mark.slow
def test_an_experiment_trains_its_method_alone_and_is_compared(mine: Clone, mlflow: Mlflow) -> None:
    before, kept = everything(mine.out), lock(mine)
    said = mine.dvc("exp", "run", "--name", "softer", "-S", "methods.ewc.strength=50")
    assert stages(said) == ["report", "train@ewc"]
    assert {name for name, _ in learned(said)} == {"ewc/seed-0"}
    softer = lock(mine)
    changed = {row["Path"] + ":" + row["Metric"] for row in difference(mine, "metrics", "diff")}
    assert changed
    assert all(name.startswith("out/report/dvc/ewc.json:") for name in changed)
    assert [row["Param"] for row in difference(mine, "params", "diff")] == ["methods.ewc.strength"]
    shown = mine.dvc("exp", "show", "--only-changed", "--md")
    assert "[softer]" in shown
    assert "methods.ewc.strength" in shown
    assert "finetune" not in shown.replace("cl/methods/finetune.py", ""), "what did not change is not in the way"
    page = Path(mine.dvc("plots", "diff", "HEAD", "softer").strip().splitlines()[-1].removeprefix("file://"))
    assert "softer" in page.read_text()
    (tracked,) = [r for r in mlflow.runs("ewc") if r.get("dvc.experiment") == "softer"]
    assert tracked["dvc.results"] == softer["out/results/ewc"] != kept["out/results/ewc"]

    mine.git("checkout", "--quiet", ".", cwd=mine.root)
    mine.dvc("checkout")
    assert everything(mine.out) == before
    assert stages(mine.dvc("repro")) == []
    # What is there now is the first run's again, though the experiment's was tracked later.
    assert tracked["run"] not in where_from(mine)
    assert run("flows.report", [], cwd=mine.root).returncode == 0
    assert {r["run"]: r["dvc.results"] for r in mlflow.runs("ewc")}[tracked["run"]] == softer["out/results/ewc"]


def difference(made: Clone, *command: str) -> list[dict[str, str]]:
    """What a `dvc ... diff` lists, as one dictionary a line."""
    table = made.dvc(*command, "--md").strip().splitlines()
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    return [dict(zip(head, row, strict=True)) for row in rows]


@pytest.mark.slow
def test_experiments_wait_in_a_queue_and_leave_the_workspace_alone(mine: Clone, mlflow: Mlflow) -> None:
    before, params = everything(mine.out), (mine.root / "params.yaml").read_bytes()
    queued = mine.dvc("exp", "run", "--queue", "-S", "methods.ewc.strength=20,10", "-S", "execution.workers=1")
    names = re.findall(r"Queued experiment '([^']+)'", queued)
    assert len(names) == 2
    try:
        mine.dvc("queue", "start", "-j", "2")
        deadline = time.monotonic() + SECONDS
        while re.search("Queued|Running", mine.dvc("queue", "status")):
            assert time.monotonic() < deadline, mine.dvc("queue", "status")
            time.sleep(1)
    finally:
        mine.dvc("queue", "stop", "--kill")
    assert mine.dvc("queue", "status").count("Success") == 2
    assert everything(mine.out) == before
    assert (mine.root / "params.yaml").read_bytes() == params
    for name in names:
        assert stages(mine.dvc("queue", "logs", name)) == ["report", "train@ewc"]
        assert name in mine.dvc("exp", "list")
        (tracked,) = [r for r in mlflow.runs("ewc") if r.get("dvc.experiment") == name]
        assert tracked["dvc.results"] in experiment_lock(mine, name)
        assert tracked["dvc.results"] != lock(mine)["out/results/ewc"]


def experiment_lock(made: Clone, name: str) -> str:
    """The dvc.lock of an experiment."""
    references = made.git("for-each-ref", "--format=%(refname)", "refs/exps", cwd=made.root).stdout.split()
    (reference,) = [found for found in references if found.endswith(f"/{name}")]
    return made.git("show", f"{reference}:dvc.lock", cwd=made.root).stdout


@pytest.mark.slow
def test_a_server_that_is_gone_costs_the_report_nothing(mine: Clone, tmp_path: Path) -> None:
    gone = f"tracking.uri=http://127.0.0.1:{free_port()}"
    done = run("flows.report", ["--set", gone], cwd=mine.root)
    assert (done.returncode, done.stderr) == (0, ""), "it knows of no run there"
    ledger = mine.out / ".work/tracking.json"
    known = ledger.read_text()
    uri = yaml.safe_load((mine.root / "params.yaml").read_text())["tracking"]["uri"]
    ledger.write_text(known.replace(uri, gone.removeprefix("tracking.uri=")))
    try:
        done = run("flows.report", ["--set", gone], cwd=mine.root)
    finally:
        ledger.write_text(known)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("tracking: MLflow (http://127.0.0.1:")
    assert done.stderr.count("\n") == 1


# Without training.


def test_nothing_leaves_this_machine_unless_a_remote_is_set_up() -> None:
    """What is committed names one remote, a folder in the repository, and no default."""
    config = configparser.ConfigParser()
    config.read(REPOSITORY / ".dvc/config")
    assert "remote" not in config["core"]
    remotes = {name: dict(config[name]) for name in config.sections() if name.startswith("'remote")}
    assert remotes == {"'remote \"embedded\"'": {"url": "embedded"}}
    assert not config.defaults()


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty repository of git and DVC, and the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    call("git", "init", "--quiet", "--initial-branch=main")
    for key, value in (("user.name", "a tester"), ("user.email", "tester@localhost")):
        call("git", "config", key, value)
    call("python", "-m", "dvc", "init", "--quiet")
    return tmp_path


def call(*command: str) -> None:
    done = subprocess.run(
        command,
        env=environment(DVC_SITE_CACHE_DIR=str(Path.cwd() / "site")),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("text", ["[]", "outs: 3", "stages: []", "stages: {train: 1}", "\0", "a: b: c", "!!int x"])
def test_files_of_dvc_that_are_none_are_named(
    text: str, prepared: dict[int, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prepared").symlink_to(prepared[2])
    for name in ("data.dvc", "dvc.lock"):
        Path(name).write_text(text)
    with pytest.raises(UserError, match=r"data\.dvc: damaged, or in the middle of a merge; git checkout data\.dvc"):
        origin.tags(tmp_path)
    if text != "outs: 3":
        with pytest.raises(UserError, match=r"dvc\.lock: damaged, or in the middle of a merge"):
            origin.recorded(tmp_path)


def test_a_folder_has_the_hash_that_dvc_gives_it_and_another_after_a_change(repository: Path) -> None:
    out = repository / "out"
    for name in ("results/ewc", "checkpoints/ewc"):
        for path, text in {"b.json": "{}", "a/z ü.json": "1\r\n", "a.json": "", "a-b/c": "x"}.items():
            (out / name / path).parent.mkdir(parents=True, exist_ok=True)
            (out / name / path).write_text(name + text, encoding="utf-8")
    outputs = [word for name in ("results/ewc", "checkpoints/ewc") for word in ("-o", f"out/{name}")]
    call("python", "-m", "dvc", "stage", "add", "--name", "train", *outputs, "true")
    call("python", "-m", "dvc", "commit", "--force")
    assert origin.recorded(Path("out")) == {
        "ewc": {f"dvc.{kind}": origin.folder_hash(out / kind / "ewc") for kind in ("results", "checkpoints")}
    }
    (out / "results/ewc/b.json").write_text("other")
    assert origin.recorded(Path("out")) == {}


def test_a_commit_is_dirty_by_what_people_write_not_by_what_dvc_does(repository: Path) -> None:
    for name in ("dvc.lock", "params.yaml"):
        Path(name).write_text("before: 1\n")
    call("git", "add", "--all")
    call("git", "commit", "--quiet", "--message", "first")
    clean = origin.git_commit()
    assert clean is not None
    assert re.fullmatch("[0-9a-f]{40}", clean)
    Path("dvc.lock").write_text("after: 1\n")
    Path("untracked").write_text("")
    assert origin.git_commit() == clean
    Path("params.yaml").write_text("after: 1\n")
    assert origin.git_commit() == f"{clean}-dirty"


def test_images_from_elsewhere_are_not_said_to_be_in_dvc(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY)
    out = finished.copy(tmp_path / "out")
    assert "dvc.data" in origin.tags(out)
    file = out / "prepared/manifest.json"
    manifest = json.loads(file.read_text())
    manifest["options"]["path"] = "photographs"
    file.write_text(json.dumps(sealed({name: value for name, value in manifest.items() if name != SEAL})))
    assert "dvc.data" not in origin.tags(out)
