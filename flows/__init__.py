"""The pipeline around the learning: Prefect, MLflow and DVC are known in this package only.

`unforgetting` is the one command, which starts the others, and `repro` is `dvc repro` with a word on how far it is.
At the top are the stages (`prepare`, `train`, `report`) and the commands that use them: `compare` chains the stages,
`nightly` repeats them each night, `champion` registers the best model, `predict` and `export` use it; `provenance`,
`study`, `serve`, `pages`, `notify` help.
`deployments` are what a Prefect server can start; `cluster` is Dask and Ray. `naming` and `boards` are what Prefect
shows of a comparison and of a run, `servers` knows which servers run.

Beside them are rooms, packages that the commands use: `engine` runs the stages and tells Prefect, `tracking` tells
MLflow, `report` compares and draws, `serving` makes a model of the champion and uses it, `nights` judges a night.
"""

import os
from pathlib import Path

# The tools report nothing home unless the user says so. (MLflow compares with the word "true".)
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
except RuntimeError:  # in a container, a user who is in no table of users: without a home MLflow cannot be imported
    os.environ["HOME"] = "/nonexistent"
