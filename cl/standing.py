"""The old name of `python -m cl.status`, for one version."""

from __future__ import annotations

import sys

from cl import cli
from cl.renamed import say
from cl.status import main

if __name__ == "__main__":
    say("python -m cl.standing", "cl.standing", "cl.status")
    sys.exit(cli.guarded(main))
