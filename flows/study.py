"""Write a study out as one whole params file, for DVC: `python -m flows.study studies/NAME.yaml > params.yaml`."""

from __future__ import annotations

import argparse
import sys

import yaml

from cl import cli, embedded


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    made = cli.parser("flows.study", main.__doc__)
    made.add_argument("params", type=embedded.params_file, metavar="STUDY", help="its params file, instead of --params")
    return made


def main() -> int:
    """Print the params of a study, with all that it extends and every default."""
    params = cli.params_of(parser().parse_args())
    print(yaml.safe_dump(params.model_dump(mode="json"), sort_keys=False), end="")
    return 0


if __name__ == "__main__":
    sys.exit(cli.guarded(main))
