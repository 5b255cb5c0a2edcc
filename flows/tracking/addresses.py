"""The commands and addresses that show MLflow in a browser."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path

from cl.redact import without_password
from flows.servers import address, shown_folder
from flows.tracking.ledger import Ledger
from flows.tracking.notes import EXPERIMENTS, comparison_path, run_path
from flows.tracking.settings import Tracking

USUAL = "http://127.0.0.1:5000"
"""Where MLflow listens, unless another port is asked for."""


def server_command(tracking: Tracking, port: int = 5000) -> list[str]:
    """The command that serves the embedded database on the loopback address, with the fewest processes."""
    words = [here(Path(sys.executable)), "-m", "mlflow", "server", "--workers", "1"]
    words += ["--host", "127.0.0.1", "--port", str(port)]
    words += ["--backend-store-uri", database_address(tracking)]
    if tracking.uri is None:
        words += ["--artifacts-destination", here(tracking.folder / "artifacts")]
    return words


def database_address(tracking: Tracking) -> str:
    """The address of the database that MLflow reads, as seen from the current folder."""
    return tracking.uri or f"sqlite:///{here(tracking.database)}"


def ui_command(tracking: Tracking) -> str:
    """The shell command that shows the database of `tracking` in a browser; a password is for the reader to fill in."""
    environment = "MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false MLFLOW_DISABLE_TELEMETRY=true"
    return f"{environment} {without_password(shlex.join(server_command(tracking)))}"


def start_command(out: Path) -> str:
    """The shortest command that starts Prefect, and MLflow with the runs of this output folder."""
    elsewhere = out.resolve() != Path("out").resolve()
    if Path("Makefile").exists():
        return f"make serve OUT={shlex.quote(here(out))}" if elsewhere else "make serve"
    alone = shutil.which("unforgetting") is not None
    words = ["unforgetting", "serve"] if alone else [here(Path(sys.executable)), "-m", "flows.serve", "start"]
    return shlex.join([*words, *(["--out", here(out)] if elsewhere else [])])


def show_command(tracking: Tracking) -> str:
    """The shortest command after which a browser finds the database of `tracking`."""
    of_an_out = tracking.uri is None and tracking.folder.name == "mlflow"  # `serve` looks for it there
    return start_command(tracking.folder.parent) if of_an_out else ui_command(tracking)


def comparison_url(base: str, tracking: Tracking) -> str:
    """Address of the curated comparison on the MLflow server at `base`, such as http://127.0.0.1:5000.

    Where these params have sent nothing, it is the newest comparison of the output folder; where none has, the list of
    experiments.
    """
    newest = Ledger(tracking).newest()
    return f"{base.rstrip('/')}/{comparison_path(newest[1]) if newest else EXPERIMENTS}"


def run_url(tracking: Tracking, run: Path) -> str | None:
    """Address of the MLflow run of a run's folder, `<out>/.work/<method>/seed-<s>/<key>`; None where none opens."""
    ledger = Ledger(tracking)
    experiment, entry = ledger.experiment(), ledger.runs().get("/".join(run.resolve().parts[-3:]))
    base = pages(tracking)
    if base is None or experiment is None or entry is None or entry["run"] is None:
        return None
    return f"{base}/{run_path(experiment, entry['run'])}"


def pages(tracking: Tracking) -> str | None:
    """Where a browser finds MLflow's pages now, without a password; None where no server shows them."""
    if (tracking.uri or "").startswith("http"):
        return tracking.target.rstrip("/")
    return address("mlflow") if shown_folder() == tracking.folder else None


def where_to_compare(tracking: Tracking) -> str:
    """Where the curated comparison is, in Markdown: a link, or the command that has to be started first."""
    if (base := pages(tracking)) is not None:
        return f"[the comparison in MLflow]({comparison_url(base, tracking)})"
    url = comparison_url(soon(tracking), tracking)
    return f"[the comparison in MLflow]({url}), after `{show_command(tracking)}`"


def soon(tracking: Tracking) -> str:
    """Where MLflow's pages are after `show_command`."""
    return (address("mlflow") if tracking.uri is None else None) or USUAL


def here(path: Path) -> str:
    """A path as seen from the current folder, where it is inside."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
