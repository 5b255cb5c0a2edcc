"""Servers, worker and deployments as `make serve` starts them, nights triggered over the API: the real thing, once."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.flows.conftest import REPOSITORY, SMALL, environment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
SETTINGS = [
    *(setting for setting in SMALL if not setting.startswith("tracking.")),
    "benchmark.train_per_class=20",
    "training.epochs=20",
    "training.learning_rate=0.1",
    "selection.enabled=false",
]
GOOD = [*SETTINGS, "champion.register_best=true"]
NIGHT = {"methods": ["finetune", "ewc"], "seeds": [0, 1, 2], "settings": [*GOOD, "methods.ewc.strength=10.0"]}
SERVERS = ("prefect", "mlflow", "worker", "report")
Json = dict[str, Any]


def free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports


@dataclass(frozen=True)
class Served:
    """A checkout whose servers run."""

    folder: Path
    ports: list[int]
    said: str

    def call(self, path: str, body: Json | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.ports[0]}/api{path}", data, {"Content-Type": "application/json"}
        )
        for _ in range(20):
            try:
                with urllib.request.urlopen(request, timeout=30) as answer:
                    return json.load(answer)
            except urllib.error.HTTPError as error:
                if error.code != 503:  # its database is busy for a moment; Prefect's own client tries again too
                    raise
                time.sleep(0.5)
        raise AssertionError(f"{path}: 503 again and again")

    def trigger(self, name: str, **parameters: Any) -> str:
        deployment = self.call(f"/deployments/name/{name}/{name}")
        run = self.call(f"/deployments/{deployment['id']}/create_flow_run", {"parameters": parameters})
        return str(run["id"])

    def end_of(self, run: str) -> Json:
        deadline = time.monotonic() + 300
        while True:
            found: Json = self.call(f"/flow_runs/{run}")
            if found["state"]["type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"):
                return found
            assert time.monotonic() < deadline, found["state"]
            time.sleep(0.5)


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "flows.serve", *arguments],
        cwd=folder,
        env=environment(PYTHONPATH=str(folder)),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def latest_record(folder: Path, index: int) -> str:
    return sorted((folder / "out" / "nights").glob("*/night.json"))[index].read_text()


def servers_alive(folder: Path) -> list[str]:
    """Command lines of the processes that work in the folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            here = os.readlink(process / "cwd") == str(folder)
            line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if here and line:
            found.append(line)
    return found


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("cl", "flows", "data"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("params.yaml", "prefect.yaml", "data.dvc"):
        shutil.copy(REPOSITORY / name, folder / name)
    ports = free_ports(4)
    options = [f"--{name}-port={port}" for name, port in zip(SERVERS, ports, strict=True)]
    try:
        done = command(folder, "start", *options)
        assert done.returncode == 0, done.stdout + done.stderr
        yield Served(folder, ports, done.stdout)
    finally:
        stopped = command(folder, "stop")
        assert stopped.stdout == "stopped: mlflow, prefect, report, worker\n", stopped.stdout + stopped.stderr
        deadline = time.monotonic() + 20
        while left := servers_alive(folder):
            assert time.monotonic() < deadline, left
            time.sleep(0.2)


def test_start_prints_the_addresses_and_starts_nothing_twice(served: Served) -> None:
    for name, port in zip(SERVERS, served.ports, strict=True):
        assert f"http://127.0.0.1:{port}" in served.said, name
    before = servers_alive(served.folder)
    again = command(served.folder, "start", f"--prefect-port={served.ports[0]}")
    assert again.returncode == 0, again.stderr
    assert sorted(servers_alive(served.folder)) == sorted(before)


def test_servers_listen_on_loopback_alone(served: Served) -> None:
    listening = set()
    for family in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{family}").read_text().splitlines()[1:]:
            address, state = line.split()[1], line.split()[3]
            host, port = address.split(":")
            if state == "0A" and int(port, 16) in served.ports:
                listening.add((int(port, 16), host))
    assert {port for port, _ in listening} == set(served.ports)
    assert {host for _, host in listening} == {"0100007F"}


def test_the_form_describes_every_parameter_and_offers_the_choices(served: Served) -> None:
    for name in ("compare", "nightly", "add-task", "report"):
        deployment = served.call(f"/deployments/name/{name}/{name}")
        schema = deployment["parameter_openapi_schema"]
        assert deployment["description"]
        for parameter, field in schema["properties"].items():
            assert field.get("description"), (name, parameter)
            assert field.get("default") not in (None, ""), (name, parameter)
        assert {"ewc", "all"} <= set(schema["definitions"]["Method"]["enum"])
    nightly = served.call("/deployments/name/nightly/nightly")
    (schedule,) = nightly["schedules"]
    assert (schedule["schedule"]["cron"], schedule["schedule"]["timezone"]) == ("0 2 * * *", "Europe/Brussels")


def test_settings_that_cannot_be_fail_the_run_with_the_reason(served: Served) -> None:
    found = served.end_of(served.trigger("compare", settings=["training.epoch=3"]))
    assert (found["name"], found["state"]["type"]) == ("refused", "FAILED")
    assert "training.epoch: unknown key; did you mean 'epochs'?" in found["state"]["message"]


def test_nights(served: Served) -> None:
    """Two alike are "no change"; a knob made worse fails, and the method is named; meanwhile a second is cancelled."""
    first, second = (served.end_of(served.trigger("nightly", **NIGHT)) for _ in range(2))
    assert [run["state"]["type"] for run in (first, second)] == ["COMPLETED"] * 2, (first, second)
    assert re.fullmatch(r"night 20\d\d-\d\d-\d\d \d\d:\d\d: permuted-digits: finetune, ewc; 3 seeds; .*", first["name"])
    assert {"nightly", "permuted-digits", "ewc"} <= set(first["tags"])
    assert first["state"]["message"] == json.loads(latest_record(served.folder, 0))["headline"]
    worse = {**NIGHT, "settings": [*GOOD, "methods.ewc.strength=1e9"]}
    third = served.trigger("nightly", **worse)
    while served.call(f"/flow_runs/{third}")["state"]["type"] == "SCHEDULED":  # from PENDING on it has the one place
        time.sleep(0.2)
    overlapping = served.end_of(served.trigger("nightly", **NIGHT))
    assert overlapping["state"]["type"] == "CANCELLED"
    assert "concurrency" in overlapping["state"]["message"].lower()
    found = served.end_of(third)
    records = [json.loads(path.read_text()) for path in sorted((served.folder / "out" / "nights").glob("*/night.json"))]
    assert [record["good"] for record in records[:2]] == [True, True]
    assert records[1]["headline"] == "no change: every accuracy is the same to the last bit"
    assert records[1]["compared_with"] == records[0]["night"]
    assert found["state"]["type"] == "FAILED", records[2]["headline"]
    assert "regression: ewc" in found["state"]["message"]
    assert not records[2]["good"]
    assert (served.folder / "out" / "nights" / "latest.html").exists()
    artifacts = served.call("/artifacts/filter", {})
    kinds = {(artifact["key"], artifact["type"]) for artifact in artifacts}
    assert {("morning", "markdown"), ("leaderboard", "table"), ("report", "markdown")} <= kinds
    text = [artifact["data"] for artifact in artifacts if artifact["key"] == "morning"]
    assert any("| ewc | accuracy | worse:" in data for data in text)
    told = [artifact["data"] for artifact in artifacts if artifact["key"] == "champion"]
    assert ["is the first" in data for data in told].count(True) == 1
    assert ["is champion already" in data for data in told].count(True) == 1
    assert len(told) == 2, "none of a night with a regression"


@pytest.mark.browser
def test_the_pages_show_the_night(served: Served) -> None:
    """Prefect's page of the last night, and the morning's page, in a real browser."""
    from selenium import webdriver
    from selenium.webdriver.support.wait import WebDriverWait

    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1600,1300"):
        options.add_argument(argument)
    browser = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    try:

        def page(*_: object) -> str:
            return str(browser.execute_script("return document.body.innerText"))

        sorting = {"sort": "EXPECTED_START_TIME_DESC", "flow_runs": {"name": {"like_": "finetune, ewc"}}}
        runs = served.call("/flow_runs/filter", sorting)
        failed = next(run for run in runs if run["state_type"] == "FAILED" and run["deployment_id"])
        browser.get(f"http://127.0.0.1:{served.ports[0]}/runs/flow-run/{failed['id']}")
        WebDriverWait(browser, 60).until(
            lambda _: "regression: ewc" in page() and "permuted-digits: finetune, ewc" in page()
        )
        (link,) = {a["data"] for a in served.call("/artifacts/filter", {}) if a["key"] == "morning-page"}
        browser.get(link[link.index("http") : link.index("]")])
        assert browser.current_url == f"http://127.0.0.1:{served.ports[3]}/out/nights/latest.html"
        assert "regression: ewc" in page()
        assert "methods.ewc.strength" in page()
        report = browser.find_element("link text", "The night's report")
        report.click()
        WebDriverWait(browser, 20).until(lambda _: "Leaderboard" in page())
    finally:
        browser.quit()


def test_a_url_is_called_when_a_night_fails(served: Served, called: tuple[str, list[Json]]) -> None:
    url, bodies = called
    for _ in range(2):  # the second time replaces what the first made
        done = subprocess.run(
            [sys.executable, "-m", "flows.notify", url],
            cwd=served.folder,
            env=environment(PYTHONPATH=str(served.folder), PREFECT_API_URL=f"http://127.0.0.1:{served.ports[0]}/api"),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    assert served.end_of(served.trigger("nightly", settings=["no.such=1"]))["state"]["type"] == "FAILED"
    deadline = time.monotonic() + 60
    while not bodies:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    time.sleep(2)
    (body,) = bodies
    assert (body["run"], body["state"]) == ("refused", "Failed")
    assert "no: unknown key" in body["message"]
    assert body["url"].startswith(f"http://127.0.0.1:{served.ports[0]}/")


def test_the_nights_are_in_mlflow(served: Served) -> None:
    """After the nights above: one run a night with its page, and the runs' runs with the night as a tag."""
    address = f"http://127.0.0.1:{served.ports[1]}/api/2.0/mlflow"
    with urllib.request.urlopen(
        f"{address}/experiments/get-by-name?experiment_name=permuted-digits%20nightly"
    ) as answer:
        experiment = json.load(answer)["experiment"]["experiment_id"]
    body = json.dumps({"experiment_ids": [experiment], "max_results": 1000}).encode()
    request = urllib.request.Request(f"{address}/runs/search", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        runs = json.load(answer)["runs"]
    tags = [{tag["key"]: tag["value"] for tag in run["data"]["tags"]} for run in runs]
    nights = [t for t in tags if t["mlflow.runName"].startswith("night ")]
    assert sorted(t["good"] for t in nights) == ["false", "true", "true"]
    of_ewc = [t for t in tags if t["mlflow.runName"] == "ewc/seed-0"]
    assert len({t["night"] for t in of_ewc}) == 3


def test_a_task_that_is_added_is_the_only_one_learned(served: Served) -> None:
    """`add-task` on the server: the two tasks of before are not learned again, but by joint, which sees all at once."""
    others = [setting for setting in SETTINGS if not setting.startswith("benchmark.tasks")]
    known = {"methods": ["finetune", "joint"], "seeds": [0], "settings": others, "out": "grown"}
    first = served.end_of(served.trigger("compare", **known, tasks="2"))  # as the form sends it
    assert first["state"]["type"] == "COMPLETED", first["state"]
    second = served.end_of(served.trigger("add-task", **known, tasks=3))
    assert second["state"]["type"] == "COMPLETED", second["state"]
    since = {"logs": {"timestamp": {"after_": first["start_time"]}}, "sort": "TIMESTAMP_ASC", "limit": 200}
    lines: list[Json] = []
    while page := served.call("/logs/filter", {**since, "offset": len(lines)}):
        lines += page
    learned = [line["message"].split(",")[0] for line in lines if "accuracy so far" in line["message"]]
    # joint learns all its tasks at once, so once for two and once for three of them.
    assert [line for line in learned if line.startswith("joint")] == ["joint/seed-0: task 1/1 all"] * 2
    assert [line for line in learned if line.startswith("finetune")] == [
        *(f"finetune/seed-0: task {k}/2 permutation-0{k}" for k in (1, 2)),
        "finetune/seed-0: task 3/3 permutation-03",
    ]
    result = json.loads((served.folder / "grown/results/finetune/seed-0.json").read_text())
    assert len(result["accuracy"]) == 3
    # What was started in another folder is in the MLflow that is served, and the two lead to each other.
    address = f"http://127.0.0.1:{served.ports[1]}/api/2.0/mlflow"
    known = f"{address}/experiments/get-by-name?experiment_name=permuted-digits%20in%20grown"
    with urllib.request.urlopen(known) as answer:
        experiment = json.load(answer)["experiment"]["experiment_id"]
    body = json.dumps({"experiment_ids": [experiment], "max_results": 1000}).encode()
    request = urllib.request.Request(f"{address}/runs/search", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        runs = {run["info"]["run_name"]: run for run in json.load(answer)["runs"]}
    assert {"finetune/seed-0", "joint/seed-0", "report"} <= set(runs)
    tags = {tag["key"]: tag["value"] for tag in runs["finetune/seed-0"]["data"]["tags"]}
    ours = f"http://127.0.0.1:{served.ports[0]}/runs/flow-run/"
    assert tags["prefect.flow_run"].startswith(ours)
    flow_run = served.call(f"/flow_runs/{tags['prefect.flow_run'].removeprefix(ours)}")
    assert flow_run["name"] == "permuted-digits: finetune, joint; in grown"
    pages = [a["data"] for a in served.call("/artifacts/filter", {}) if a["key"] == "mlflow"]
    assert any(f"/runs/{runs['finetune/seed-0']['info']['run_id']}?" in page for page in pages)


def test_another_output_folder_is_shown_on_the_same_port(served: Served) -> None:
    """The last test: afterwards MLflow shows nothing of the ones before."""
    done = command(served.folder, "start", "--out", "elsewhere")
    assert done.returncode == 0, done.stderr
    assert "MLflow has shown out/mlflow; from now on it shows elsewhere/mlflow\n" in done.stdout
    assert f"compare  http://127.0.0.1:{served.ports[1]}/#/experiments/1/runs?" in done.stdout
    address = f"http://127.0.0.1:{served.ports[1]}/api/2.0/mlflow/experiments/search?max_results=9"
    with urllib.request.urlopen(address) as answer:
        assert [found["name"] for found in json.load(answer)["experiments"]] == ["permuted-digits"]
