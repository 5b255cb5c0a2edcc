"""The old name of `python -m flows.compare`, for one version."""

from __future__ import annotations

from cl import cli
from cl.renamed import say
from flows.compare import main
from flows.deadline import finish

if __name__ == "__main__":
    say("python -m flows.benchmark", "flows.benchmark", "flows.compare")
    finish(cli.guarded(main))
