"""Prefect's server and worker, MLflow, and the reports, together on this machine.

    python -m flows.serve start|stop|status

All of them listen on the loopback address alone. The command notes each process with its start time, so that `stop`
ends just these processes, and never another one that got the same number later.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from cl import cli, embedded
from cl.called import program
from cl.errors import UserError
from cl.files import write_json
from cl.params import read
from cl.paths import option
from flows import QUIET
from flows.deadline import finish
from flows.servers import HOME, STATE, Server, known, shown_folder
from flows.stage import started_at
from flows.tracking.addresses import comparison_url, here, server_command, start_command
from flows.tracking.experiment import ensure
from flows.tracking.ledger import Ledger
from flows.tracking.notes import EXPERIMENTS
from flows.tracking.settings import Tracking, tracking_of

HOST = "127.0.0.1"
POOL = "local"
DEPLOYMENTS = Path("prefect.yaml")
PREFECT = (sys.executable, "-m", "prefect")
SECONDS_TO_START, SECONDS_TO_STOP, SECONDS_TO_DEPLOY = 120.0, 15.0, 120.0


@dataclass(frozen=True)
class Ports:
    """Where the servers listen."""

    prefect: int = 4200
    mlflow: int = 5000
    worker: int = 8080
    report: int = 4280


def start(tracking: Tracking, ports: Ports) -> dict[str, Server]:
    """Start what does not run yet, and deploy the flows of prefect.yaml; returns all by name.

    MLflow shows one output folder: where it shows another than the one of `tracking`, it is started anew on its port.

    Raises `UserError` where a port is taken or a server does not come up, naming its log.
    """
    servers = known()
    api = f"{servers['prefect'].address if 'prefect' in servers else f'http://{HOST}:{ports.prefect}'}/api"
    env = _environment(api, ports.prefect, ports.worker)
    if "prefect" not in servers:
        command = [*PREFECT, "server", "start"]
        servers["prefect"] = _launch("prefect", command, env, f"http://{HOST}:{ports.prefect}", f"{api}/health")
        _wait(servers["prefect"])
    if "mlflow" in servers and tracking.uri is None and servers["mlflow"].shows != str(tracking.folder):
        other = servers.pop("mlflow")
        _say(f"MLflow has shown {here(Path(other.shows))}; from now on it shows {here(tracking.folder)}")
        _end(other)
        ports = replace(ports, mlflow=int(other.address.rpartition(":")[2]))
    if "mlflow" not in servers and tracking.uri is None:
        ensure(tracking)
        address, command = f"http://{HOST}:{ports.mlflow}", server_command(tracking, ports.mlflow)
        servers["mlflow"] = _launch("mlflow", command, env, address, f"{address}/health", str(tracking.folder))
    if "worker" not in servers and DEPLOYMENTS.exists():
        health = f"http://{HOST}:{ports.worker}/health"
        command = [*PREFECT, "worker", "start", "--pool", POOL, "--type", "process", "--name", POOL]
        servers["worker"] = _launch("worker", [*command, "--with-healthcheck"], env, health, health)
    if "report" not in servers:
        address = f"http://{HOST}:{ports.report}"
        command = [sys.executable, "-m", "flows.pages", "--port", str(ports.report)]
        servers["report"] = _launch("report", command, env, address, f"{address}/health")
    for server in servers.values():
        _wait(server)
    if DEPLOYMENTS.exists():
        _say(f"deploying the flows of {DEPLOYMENTS}")
        _deploy(api, env)
    else:
        _say(f"no {DEPLOYMENTS} here, so no flows are deployed and no worker runs; a checkout has one")
    return servers


def _environment(api: str, prefect_port: int, worker_port: int) -> dict[str, str]:
    """What the servers are told by their environment."""
    return {
        **QUIET,
        "PREFECT_HOME": str(HOME.resolve()),
        "PREFECT_API_URL": api,
        # By the environment: with the option --port the pages would go on asking the default port.
        "PREFECT_SERVER_API_HOST": HOST,
        "PREFECT_SERVER_API_PORT": str(prefect_port),
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        # All links to flow runs, Prefect's own too, open the first of its two interfaces: then so does its address.
        "PREFECT_SERVER_UI_V2_ENABLED": os.environ.get("PREFECT_SERVER_UI_V2_ENABLED", "false"),
        "PREFECT_WORKER_WEBSERVER_HOST": HOST,
        "PREFECT_WORKER_WEBSERVER_PORT": str(worker_port),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
    }


def _deploy(api: str, env: Mapping[str, str]) -> None:
    """Have the server at `api` take the flows of prefect.yaml; raises `UserError` where it does not."""
    here = {"PWD": str(Path.cwd())}  # prefect.yaml asks for it; a parent may have left another
    try:
        done = subprocess.run(
            [*PREFECT, "--no-prompt", "deploy", "--all"],
            env={**os.environ, **env, **here},
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
            timeout=SECONDS_TO_DEPLOY,
        )
    except subprocess.TimeoutExpired:
        raise UserError(
            f"prefect.yaml could not be deployed within {SECONDS_TO_DEPLOY:.0f} s: the Prefect server at {api} does "
            "not answer; end it with `make stop` and start again"
        ) from None
    if done.returncode != 0:
        raise UserError(f"prefect.yaml cannot be deployed: {done.stdout[-2000:]}{done.stderr[-2000:]}")


def _launch(
    name: str, command: list[str], env: Mapping[str, str], address: str, health: str, shows: str = ""
) -> Server:
    number = address.split(":")[2].split("/")[0]
    if (why := _unusable(int(number))) is not None:
        raise UserError(f"port {number}, for {name}, {why}; give another with --{name}-port")
    log = HOME / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **env},
            start_new_session=True,
        )
    started = started_at(child.pid) or 0
    server = Server(name, address, health, child.pid, started, str(log), shows)
    write_json(STATE, {"servers": [asdict(s) for s in {**known(), name: server}.values()]})
    return server


def _wait(server: Server) -> None:
    began = time.monotonic()
    deadline = began + SECONDS_TO_START
    if server.answers:
        return
    _say(f"waiting for {server.name}, for up to {SECONDS_TO_START:.0f} s (log: {server.log})")
    while not server.answers:
        if not server.alive or time.monotonic() > deadline:
            late = f"did not answer within {SECONDS_TO_START:.0f} s (end it with `make stop`)"
            why = late if server.alive else "ended"
            log = Path(server.log)
            lines = log.read_text(encoding="utf-8", errors="replace").splitlines(True) if log.exists() else []
            raise UserError(f"{server.name} {why}; the end of {server.log}:\n{''.join(lines[-5:])}")
        time.sleep(0.3)
    _say(f"{server.name} answers after {time.monotonic() - began:.0f} s")


def _say(line: str) -> None:
    print(f"serve: {line}", flush=True)


def stop() -> list[str]:
    """End the servers of this project, the worker first, with all they have started; returns their names."""
    servers = known()
    for name in sorted(servers, reverse=True):
        _end(servers[name])
    STATE.unlink(missing_ok=True)
    return sorted(servers)


def _end(server: Server) -> None:
    """End a server with all it has started."""
    with contextlib.suppress(ProcessLookupError):  # it has just ended by itself
        os.killpg(server.pid, signal.SIGTERM)
        deadline = time.monotonic() + SECONDS_TO_STOP
        while server.alive and time.monotonic() < deadline:
            time.sleep(0.1)
        if server.alive:
            os.killpg(server.pid, signal.SIGKILL)


def stop_command() -> str:
    """The command that ends them, as the user started them."""
    typed = program("flows.serve")
    return "make stop" if typed.startswith("python") and Path("Makefile").exists() else f"{typed} stop"


def _unusable(number: int) -> str | None:
    """Why no server can have the port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the servers do
        try:
            probe.bind((HOST, number))
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            return "is taken by another program" if taken else f"cannot be used ({error.strerror})"
    return None


def port(text: str) -> int:
    """The number of a port as it is given; raises `ArgumentTypeError`."""
    if not (text.isascii() and text.isdecimal() and len(text) <= 5) or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port; take a number from 1 to 65535")
    return int(text)


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    made = argparse.ArgumentParser(prog=program("flows.serve"), description=main.__doc__)
    made.add_argument(
        "what",
        choices=("start", "stop", "status"),
        nargs="?",
        default="start",
        metavar="start|stop|status",
        help="default: start",
    )
    made.add_argument(
        "--params", type=embedded.params_file, default=embedded.PARAMS, metavar="FILE", help=embedded.OPTION_HELP
    )
    made.add_argument(
        "--out",
        type=option("--out"),
        default=Path("out"),
        metavar="FOLDER",
        help="the output folder whose MLflow database is shown; default: out",
    )
    made.add_argument("--prefect-port", type=port, default=4200, metavar="PORT", help="default: 4200")
    made.add_argument("--mlflow-port", type=port, default=5000, metavar="PORT", help="default: 5000")
    made.add_argument(
        "--worker-port", type=port, default=8080, metavar="PORT", help="of its health check; default: 8080"
    )
    made.add_argument("--report-port", type=port, default=4280, metavar="PORT", help="default: 4280")
    return made


def main() -> int:
    """Start, stop or show the servers of this project: Prefect with a worker, MLflow, and the reports."""
    given = parser().parse_args()
    if given.what == "stop":
        print(f"stopped: {', '.join(stop()) or 'nothing was running'}")
        return 0
    shown = shown_folder() if given.what == "status" else None
    if shown is not None and shown.name == "mlflow":
        given.out = shown.parent  # the link to the comparison is that of the folder which the servers were started for
    tracking = tracking_of(read(given.params), given.out)
    if (newest := Ledger(tracking).newest()) is not None:  # another params file, or options, may have made it
        tracking = replace(tracking, experiment=newest[0])
    if given.what == "start":
        ports = Ports(given.prefect_port, given.mlflow_port, given.worker_port, given.report_port)
        servers = start(tracking, ports)
    else:
        servers = known()
    for server in servers.values():
        pages = f"{server.address}/{EXPERIMENTS}" if server.name == "mlflow" else server.address
        print(f"{server.name:<8} {pages}   (log: {server.log})")
    if not servers:
        print(f"nothing is running; start it with `{start_command(given.out)}`")
        return 0
    mlflow = servers["mlflow"].address if "mlflow" in servers else tracking.target
    print(f"compare  {comparison_url(mlflow, tracking)}")
    if "prefect" in servers:
        api = f"{servers['prefect'].address}/api"
        print(f"runs from this shell show up with: export PREFECT_API_URL={shlex.quote(api)}")
    print(f"stop them with: {stop_command()}")
    return 0


if __name__ == "__main__":
    finish(cli.guarded(main))
