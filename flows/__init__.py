"""Orchestration: Prefect, MLflow and DVC are known in this package only."""

import os
from pathlib import Path

# Nothing reports home unless somebody says so. (MLflow compares with the word "true".)
QUIET = {
    "DO_NOT_TRACK": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DVC_NO_ANALYTICS": "1",
}
for _name, _value in QUIET.items():
    os.environ.setdefault(_name, _value)

try:
    Path.home()
except RuntimeError:  # a user of a container whom no table of users knows: MLflow could not even be imported
    os.environ["HOME"] = "/nonexistent"
