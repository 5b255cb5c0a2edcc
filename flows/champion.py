"""The best model of a finished comparison, registered in MLflow and ready to be served: `python -m flows.champion`."""

from __future__ import annotations

import argparse
import os
import shlex
from pathlib import Path

from cl import cli
from cl.errors import UserError
from cl.params import Params
from cl.register import checked
from flows.deadline import finish
from flows.engine.plain import Engine
from flows.engine.with_prefect import configured_engine
from flows.serving.choice import NothingLearned, choose
from flows.serving.model_files import ALIAS
from flows.serving.registry import register
from flows.tracking.server import uploading
from flows.tracking.settings import tracking_of


def crown(params: Params, out: Path, engine: Engine, method: str | None = None, seed: int | None = None) -> str:
    """Register the best model; the alias `champion` moves to it where it is better than the model that has the alias.

    Returns what was decided, in a sentence. `method` and `seed`: take this model instead. Raises `UserError` where a
    run has no result yet, nothing is above chance, or MLflow refuses.
    """
    if not params.tracking.enabled:
        raise UserError("tracking.enabled: is false, so there is no MLflow to register a model in; set it to true")
    choice = choose(params, out, method, seed)
    tracking = tracking_of(params, out)
    with uploading():
        said = register(params, out, choice, tracking)
    # Without the password that an address may hold; the embedded database as seen from here.
    place = tracking.target if tracking.uri else f"sqlite:///{os.path.relpath(tracking.database)}"
    name = params.champion.name or params.title
    model = shlex.quote(f"models:/{name}@{ALIAS}")
    command = f"MLFLOW_TRACKING_URI={place} mlflow models serve -m {model} --env-manager local --port 5001"
    engine.say(said)
    engine.say(f"serve it: {command}")
    engine.page("champion", f"# {name}\n\n{said}\n\n    {command}\n", said[:200])
    return said


def crown_best(params: Params, out: Path, engine: Engine) -> str:
    """At the end of a comparison, register its best model where the params ask for it.

    Returns what was decided, or why there is no champion; empty where the params ask for none.
    """
    if not params.champion.register_best:
        return ""

    def register_or_say() -> str:
        try:
            return crown(params, out, engine)
        except NothingLearned as why:  # the comparison itself has succeeded
            engine.say(str(why))
            return str(why)

    return engine.retried("register the champion", register_or_say)


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    made = cli.parser("flows.champion", main.__doc__)
    made.add_argument("--method", help="register the best model of this method instead of the best of all")
    made.add_argument("--seed", type=int, help="register this seed instead of the one that is best on validation data")
    return made


def main() -> int:
    """Register the best model of a finished comparison in MLflow; it becomes `champion` if it is the best so far."""
    given = parser().parse_args()
    params = cli.params_of(given)
    from cl.names import method_name

    params = checked(params)
    try:
        method = given.method and method_name(given.method)
    except ValueError as error:
        raise UserError(f"--method: {error}") from None
    crown(params, given.out, configured_engine(), method, given.seed)
    return 0


if __name__ == "__main__":
    finish(cli.guarded(main))
