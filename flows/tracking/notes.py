"""What MLflow shows of where runs come from: descriptions, source, user, and links between its pages and Prefect's."""

from __future__ import annotations

import getpass
import itertools
from collections.abc import Mapping

from cl.redact import without_password
from flows.tracking.view import VIEW

NOTE, KIND = "mlflow.note.content", "mlflow.experimentKind"
PREFECT = "prefect.flow_run"
"""Tag: the address of the flow run that learned the run."""
REPORT = "report"
"""Name of the MLflow run that holds the report."""
AS_RUNS = "workflowType=machine_learning"
"""In an address of MLflow: pages of runs and models, not of evaluations and traces."""
EXPERIMENTS = f"#/experiments?{AS_RUNS}"
"""The list of experiments, as an address within MLflow's pages."""


def comparison_path(experiment: str) -> str:
    """The curated comparison, as an address within MLflow's pages."""
    return f"#/experiments/{experiment}/runs?viewStateShareKey={VIEW}&compareRunsMode=CHART&{AS_RUNS}"


def table_path(experiment: str) -> str:
    """The same as a table, of groups and runs."""
    return f"#/experiments/{experiment}/runs?viewStateShareKey={VIEW}&{AS_RUNS}"


def run_path(experiment: str, run: str) -> str:
    """The page of an MLflow run, as an address within MLflow's pages."""
    return f"#/experiments/{experiment}/runs/{run}?{AS_RUNS}"


def artifact_path(experiment: str, run: str, name: str) -> str:
    """The page that shows an artifact, as an address within MLflow's pages."""
    return f"#/experiments/{experiment}/runs/{run}/artifacts/{name}?{AS_RUNS}"


def experiment_tags(experiment: str) -> dict[str, str]:
    """What an experiment says of itself, when it is made."""
    note = (  # MLflow shows the first line, and the rest after a click
        "Each run is one method with one seed; the runs nested below it are its tasks. "
        f"**[Compare the methods]({comparison_path(experiment)})**, also [as a table]({table_path(experiment)})\n\n"
        f"- the run `{REPORT}`: leaderboard, figures, and the report as its artifact `index.html`\n"
        "- runs with the tag `comparison: superseded` were learned with other settings before\n"
    )
    return {KIND: "custom_model_development", NOTE: note}


def source_tags(command: str) -> dict[str, str]:
    """By which command, and by whom; in MLflow's column Source without options, of which it shows the last path."""
    whole = without_password(command).partition("  #")[0]
    name = itertools.takewhile(lambda word: not word.startswith("--"), whole.split()[:3])
    tags = {"mlflow.source.name": " ".join(name), "mlflow.source.type": "LOCAL", "command": whole}
    try:
        return {**tags, "mlflow.user": getpass.getuser()}
    except (OSError, KeyError):  # in a container, a user who is in no table of users
        return tags


def noted(tags: Mapping[str, str], known: Mapping[str, str], experiment: str) -> dict[str, str]:
    """The description of a run with these tags, as a tag; none where the user has changed the one that is `known`."""
    ours = (None, run_note(known, experiment)) if "method" in known else (None,)
    return {NOTE: run_note(tags, experiment)} if known.get(NOTE) in ours else {}


def run_note(tags: Mapping[str, str], experiment: str) -> str:
    """What a run is, and where to look next."""
    where = f" on {tags['benchmark']}" if "benchmark" in tags else ""
    lines = [
        f"`{tags['method']}` with seed {tags['seed']}{where}; its tasks are the runs nested below.",
        "",
        f"- [beside the other methods]({comparison_path(experiment)})",
        "- artifacts: `accuracy.csv` (on each task, after each task), `trials.csv` (everything that was tried)",
    ]
    if PREFECT in tags:
        lines.append(f"- [its flow run in Prefect]({tags[PREFECT]}), with the log")
    return "\n".join(lines) + "\n"
