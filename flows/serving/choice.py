"""Which model of a finished comparison to deploy.

The rule picks a method first: among the continual learners that the user's limits allow, the one with the highest mean
average accuracy over the seeds (of equal ones the one named first), and none if that is near chance. The accuracy is
task-agnostic where the task will not be known. Then it picks a seed of that method: the one whose final model has the
best mean validation accuracy over the tasks (of equal ones the lower seed). A test accuracy never picks a seed.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path

from cl import metrics
from cl.called import program
from cl.chance import Chance, chance, counts_of
from cl.checkpoint_files import DamagedCheckpoint, verify
from cl.data.features import numbers
from cl.data.places import place as place_of
from cl.data.places import prepared
from cl.data.prepare import read_manifest
from cl.errors import UserError
from cl.files import from_json, read_object
from cl.keys import chain, parts_of
from cl.params import Champion, Params
from cl.reading import RunResult, read_run, some
from cl.register import declares

ONE_BENCHMARK = (
    "benchmark.seed: run gives each seed tasks of its own, so no model is the best at the same tasks; "
    "to register a champion, give it a number and learn again"
)


class NothingLearned(UserError):
    """No method that is allowed is clearly above chance, so none is worth deploying."""


def barred(method: str, limits: Champion) -> str | None:
    """Why a method cannot be deployed where the limits hold; None where it can."""
    if declares(method, "sees_all_tasks"):
        return "learns all tasks at once, so is no continual learner"
    if limits.no_task_id and declares(method, "needs_task_id"):
        return "needs the task id (champion.no_task_id)"
    if limits.no_stored_samples and declares(method, "stores_samples"):
        return "stores training samples (champion.no_stored_samples)"
    return None


@dataclass(frozen=True)
class Choice:
    """The model that was picked, and why."""

    run: RunResult
    checkpoint: Path
    means: dict[str, float]
    """Mean average accuracy over the seeds of every method that was allowed, the best first."""
    excluded: dict[str, str]
    """By method, why it was not allowed."""
    half_width: float | None
    """Of the 95 % interval of the chosen method's mean; None with a single seed."""
    validation: dict[int, list[float]]
    """By seed: validation accuracy of the chosen method's final model on each task."""
    near: list[str]
    """The methods that these seeds do not tell apart from the chosen one; none with a single seed."""
    chance: Chance | None
    """In the setting in which the model will be used; None where it is not known."""
    method_given: bool
    seed_given: bool
    """Whether the user named the method, and the seed, whatever the rule says."""

    @property
    def score(self) -> float:
        """The number by which models are compared."""
        return self.means[self.run.method]

    @property
    def near_chance(self) -> bool:
        """Whether the method that the user named has learned next to nothing; the rule picks no such method."""
        return self.chance is not None and self.chance.near(self.score)


def choose(params: Params, out: Path, method: str | None = None, seed: int | None = None) -> Choice:
    """Pick by the rule among the methods and seeds of the params, within the limits of `params.champion`.

    `method` and `seed` are the user's own choice.

    Raises `NothingLearned` where all that is left is near chance, and `UserError` where results are missing or not of
    these params, data and code, and where nothing is left.
    """
    if params.benchmark.drawn:
        raise UserError(ONE_BENCHMARK)
    excluded = {name: why for name in params.methods if (why := barred(name, params.champion)) is not None}
    allowed = [name for name in params.methods if name not in excluded]
    if not allowed:
        raise UserError(f"no method is left: {'; '.join(f'{name} {why}' for name, why in excluded.items())}")
    if method is not None and method not in allowed:
        raise UserError(f"--method {method}: {excluded.get(method) or 'is not among the methods of the params'}")
    if seed is not None and seed not in params.seeds:
        raise UserError(f"--seed {seed}: is not among the seeds of the params ({', '.join(map(str, params.seeds))})")
    places = {(name, s): _checkpoint(params, out, name, s) for name in allowed for s in params.seeds}
    if missing := [f"{name}/seed-{s}" for (name, s), place in places.items() if place is None]:
        raise UserError(
            f"not learned under {out} with these params, data and code: {some(missing)}; give the options of the "
            f"comparison ({out}/report/index.html has its command), or learn them with `{program('flows.compare')}` "
            "and the same options (what is there stays), or leave them out (--methods)"
        )
    runs = {
        (name, s): read_run(out / "results" / name / f"seed-{s}.json", name, s)
        for name in allowed
        for s in params.seeds
    }
    for key, run in runs.items():
        _as_learned(run, places[key])
    accuracies = {name: [_accuracy(params, runs[name, s]) for s in params.seeds] for name in allowed}
    by_chance = _chance(params, out, runs[allowed[0], params.seeds[0]])
    ranked = sorted(allowed, key=lambda name: -statistics.fmean(accuracies[name]))
    best = method or ranked[0]
    if method is None:
        _above(by_chance, best, statistics.fmean(accuracies[best]))
    validation = {s: _validation(params, out, best, s) for s in sorted(params.seeds)}
    chosen = max(validation, key=lambda s: statistics.fmean(validation[s])) if seed is None else seed
    place = places[best, chosen]
    assert place is not None
    means = {name: statistics.fmean(accuracies[name]) for name in ranked}
    half_width = metrics.interval(accuracies[best])[1]
    by_seed = {name: dict(zip(params.seeds, values, strict=True)) for name, values in accuracies.items()}
    pairs = {name: metrics.paired(by_seed[name], by_seed[best]) for name in ranked if name != best}
    near = [name for name, pair in pairs.items() if pair is not None and pair.tied]
    given = (method is not None, seed is not None)
    return Choice(runs[best, chosen], place, means, excluded, half_width, validation, near, by_chance, *given)


def _task_agnostic(params: Params) -> bool:
    """Whether the task of an image will not be known where the model is used, although the scenario gives it."""
    return params.champion.no_task_id and params.scenario.name == "task"


def _chance(params: Params, out: Path, run: RunResult) -> Chance | None:
    """Chance in the setting in which the model will be used; None where the prepared test labels are not there."""
    counts = counts_of(prepared(params, out, params.seeds[0]))
    return chance(list(counts.values()), run.scenario, other=_task_agnostic(params)) if counts else None


def _above(by_chance: Chance | None, method: str, accuracy: float) -> None:
    """Raise `NothingLearned` where the best method is near chance."""
    if by_chance is not None and by_chance.near(accuracy):
        raise NothingLearned(
            f"no champion: none is clearly above chance ({100 * by_chance.accuracy:.1f} %), and the best, {method}, "
            f"has {100 * accuracy:.1f} %; try more epochs, smaller batches, pretrained weights"
        )


def _accuracy(params: Params, run: RunResult) -> float:
    """Average accuracy in the setting in which the model will be used."""
    matrix = run.other_accuracy if _task_agnostic(params) and run.other_accuracy is not None else run.accuracy
    return metrics.average_accuracy(matrix)


def _checkpoint(params: Params, out: Path, method: str, seed: int) -> Path | None:
    """The published model after the last task; None where it is missing or of other params, data or code."""
    tasks = [task["digest"] for task in read_manifest(place_of(params, out, seed))["tasks"]]
    folder = out / "checkpoints" / method / f"seed-{seed}" / f"task-{len(tasks) - 1}"
    key = chain(parts_of(params, method, seed), tasks, at_once=False)[-1]
    return folder if read_object(folder / "manifest.json").get("key") == key else None


def _as_learned(run: RunResult, checkpoint: Path | None) -> None:
    """Raise `UserError` where a result file disagrees with the record in the checkpoint, or that is damaged.

    The model is chosen by these numbers, so they have to be of that model.
    """
    assert checkpoint is not None
    again = f"run `{program('flows.compare')}` with the same options, which puts it right (--methods {run.method})"
    try:
        record = from_json(verify(checkpoint, only="record.json")["record.json"])
        noted = [record["accuracy"], record["other_accuracy"], record["per_task"]]
    except DamagedCheckpoint as error:
        raise UserError(f"{error}; {again}") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{checkpoint}: not a checkpoint of this version; {again}") from None
    if noted != [run.accuracy[-1], run.other_accuracy and run.other_accuracy[-1], run.per_task[-1]]:
        raise UserError(f"{run.path}: differs from what was learned ({checkpoint / 'record.json'}); {again}")


def _validation(params: Params, out: Path, method: str, seed: int) -> list[float]:
    """Validation accuracy of the final model on each task; result files have only that right after learning."""
    import torch

    from cl import checkpoint
    from cl.data import load
    from cl.evaluate import accuracy
    from cl.learner import Learner

    place = _checkpoint(params, out, method, seed)
    assert place is not None
    tasks = load(place_of(params, out, seed), crop=params.training.augmentation.crop, numbers=numbers(params))
    learner = Learner(params, method, seed, tasks, torch.device("cpu"))
    learner.resume(len(learner.experiences) - 1, checkpoint.load(place)[0])
    learner.method.training = params.training
    task_aware = False if _task_agnostic(params) else None
    return [
        accuracy(learner.method, task.validation, inference=True, task_aware=task_aware) for task in learner.experiences
    ]
