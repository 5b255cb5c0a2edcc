"""The last leaderboard, and where to look next. It is asked for after every run, so it imports little."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

from cl.errors import UserError
from cl.redact import without_password
from flows.tracking.addresses import comparison_url, here, ui_command
from flows.tracking.settings import Tracking


def show(where: Tracking) -> str:
    """The last leaderboard, and where to look next; raises `UserError` where no report was built yet."""
    table = where.out / "report" / "leaderboard.md"
    if not table.exists():
        raise UserError(f"no report under {table.parent}: run `python -m flows.report --out {where.out}` first.")
    return table.read_text(encoding="utf-8") + "\n" + where_to_look_next(where)


def where_to_look_next(where: Tracking) -> str:
    """The report, and the commands that open MLflow and Prefect, to be pasted into a shell in the current folder."""
    served = (where.uri or "").startswith("http")
    comparison = comparison_url(where.target if served else "http://127.0.0.1:5000", where)
    mlflow = [comparison] if served else [ui_command(where), f"then {comparison}"]
    if api := os.environ.get("PREFECT_API_URL"):
        prefect = [without_password(api.rstrip("/").removesuffix("/api"))]
    else:
        home = os.environ.get("PREFECT_HOME")
        settings = ["DO_NOT_TRACK=true", "PREFECT_SERVER_ANALYTICS_ENABLED=false"]
        settings += [f"PREFECT_HOME={shlex.quote(os.path.abspath(home))}"] if home else []
        python = shlex.quote(here(Path(sys.executable)))
        prefect = [" ".join([*settings, python, "-m prefect server start"])]
        prefect += ["then http://127.0.0.1:4200"]
    blocks = {"report": [str(where.out / "report" / "index.html")], "MLflow": mlflow, "Prefect": prefect}
    lines = [f"  {name if i == 0 else '':8} {line}" for name, block in blocks.items() for i, line in enumerate(block)]
    return "\n".join(["Where to look next", *lines])
