"""One method on one task sequence: the network, the method's state, and one training at a time.

Everything that a training does follows from (params, method, seed, task, phase, trial, learning rate, knobs) and the
model of the task before, so any process can run it.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import statistics
from collections.abc import Callable, Hashable
from typing import Any, Literal

import torch
from torch import Tensor

from cl.data import Sequence, Task, joined
from cl.data.labels import check_classes
from cl.descent import Moments
from cl.errors import UserError
from cl.evaluate import accuracy
from cl.method import Method, add_task
from cl.methods.finetune import Finetune
from cl.nets import build, load_weights
from cl.nets.precision import is_reduced
from cl.nets.pretrained import backbone_parameters, checksum
from cl.params import Params, Training, bytes_of, of_each_class
from cl.register import cannot, make, unbounded, unfit
from cl.results import Backbone
from cl.rng import Key, generator
from cl.selection import Knobs, Outcome
from cl.train import Fit, Snapshot, fit, show
from cl.trainable import Trainable


class Learner:
    """The network with its method, on the current task.

    Its `experiences` are what is learned in turn: the tasks, or all of them at once.
    """

    def __init__(self, params: Params, method: str, seed: int, sequence: Sequence, device: torch.device) -> None:
        self.params, self.name, self.seed, self.device = params, method, seed, device
        self.sequence = sequence
        if (why := cannot(method, params.scenario) or unfit(method, params.model)) is not None:
            raise UserError(why)
        self.method = make(method, params.methods.get(method, {}))
        self.knobs: Knobs = self.method.values() | within_budget(
            method, self.method, params.memory_budget, sequence, params.scenario.name
        )
        self.method = make(method, self.knobs)
        check_classes({task.name: task.classes for task in sequence.tasks}, params.scenario.name, sequence.labels)
        net = build(params.model, sequence.input_shape, generator(seed, "network"))
        load_weights(net.backbone, params.model)
        self.method.net = self.method.wrap(net).to(device)
        for parameter in backbone_parameters(self.method.net):
            parameter.rate = params.model.backbone_learning_rate  # type: ignore[attr-defined]
        self.method.net.increment = params.scenario.name
        self.method.net.backbone.reduced = is_reduced(params.training.precision, net, device)
        self.base = Snapshot.of(self.method)

    @functools.cached_property
    def backbone(self) -> Backbone | None:
        """The pretrained network whose features are learned from, as results name it."""
        model = self.params.model
        if model.name != "features":
            return None
        of = self.sequence.backbone
        weights = of["weights"] if model.frozen else checksum(model)
        size = of["image_size"] if model.frozen else self.sequence.input_shape[1]
        given = f" with weights {weights[:8]}" if model.weights is not None else ""
        return Backbone(name=model.backbone, weights=weights, image_size=size, setting=f"{model.title}{given}")

    @functools.cached_property
    def experiences(self) -> tuple[Task, ...]:
        """What is learned in turn: the tasks, or all of them at once."""
        return (joined(self.sequence.tasks),) if self.method.sees_all_tasks else self.sequence.tasks

    @property
    def training(self) -> Training:
        """How tasks are trained; a stream is seen once, in batches of its own and at a constant learning rate.

        All tasks at once are trained for as many steps as they would be one after the other.
        """
        if not self.params.scenario.online:
            training, tasks = self.params.training, len(self.sequence.tasks)
            if training.iterations is None or not self.method.sees_all_tasks or tasks == 1:
                return training
            return training.model_copy(update={"iterations": training.iterations * tasks})
        once = {"epochs": 1, "iterations": None, "schedule": "constant"}
        return self.params.training.model_copy(update={**once, "batch_size": self.params.scenario.batch_size})

    @property
    def is_first(self) -> bool:
        """Whether nothing has been learned yet."""
        return self.method.sees_all_tasks or self.task.index == 0

    @property
    def trains(self) -> bool:
        """Whether the current task is learned by gradient steps; if not, there is no learning rate."""
        return self.method.trains(first=self.is_first, online=self.params.scenario.online)

    def open(self, task: Task) -> None:
        """Give the network the task's head and remember the model every trial starts from."""
        self.task = task
        self._made: dict[Hashable, Any] = {}
        self._make_ready(task.index)
        self.base = Snapshot.of(self.method)

    def _make_ready(self, index: int) -> None:
        """Give the network all it needs for the tasks up to this one."""
        net, seed = self.method.net, self.seed
        while net.tasks <= index:
            number, columns = net.tasks, self.sequence.columns(self.params.scenario.name)[net.tasks]
            add_task(self.method, net, columns, number, generator(seed, "head", number), (seed, "growth", number))

    def resume(self, index: int, snapshot: Snapshot) -> None:
        """Go back to the model as it was after the experience of this index."""
        self._make_ready(self.experiences[index].index)
        snapshot.restore(self.method)

    def attach(self, method: Method, phase: str, trial: int, learning_rate: float | None) -> tuple[int | str, ...]:
        """Tell the method its task and trial, and give it the loop for trainings of its own; return the trial's key."""
        key = (self.seed, self.task.index, phase, trial)
        method.attach(self.method.net, self.task.index, self.training, learning_rate or 0.0, key)
        method.data = self.task

        def own_fit(data: Task, purpose: str, other: Trainable | None = None, **settings: Any) -> Fit:
            if other is not None:
                other.attach(other.net, self.task.index, self.training, settings["learning_rate"], key)
            trained = self._fit(other or method, data, (*key, purpose), purpose, **settings)
            # What became of a trainable of its own (an autoencoder) is for the method to say.
            self.extra.append(trained if other is None else dataclasses.replace(trained, diverged=False))
            return trained

        method.fit, method.once = own_fit, self._once
        self.extra: list[Fit] = []
        return key

    def _once(self, key: Hashable, make: Callable[[], Any]) -> Any:
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def zero_shot(self) -> dict[str, float]:
        """Test accuracy on the current task before it is learned, and that of a network that has learned nothing.

        They mean something only if the classes are those of the tasks before; otherwise, and for the first task, empty.
        """
        if self.params.scenario.name != "domain" or self.is_first:
            return {}
        self.attach(self.method, "zero-shot", 0, 0.0)
        untrained = Learner(self.params, "finetune", self.seed, self.sequence, self.device)
        untrained.open(self.sequence.tasks[0])
        untrained.attach(untrained.method, "zero-shot", 0, 0.0)
        learners = {"zero_shot_accuracy": self, "untrained_accuracy": untrained}
        return {name: accuracy(one.method, self.task.test, inference=True) for name, one in learners.items()}

    def begin(
        self, phase: str, trial: int, learning_rate: float | None, knobs: Knobs, *, plain: bool = False
    ) -> tuple[Method, tuple[int | str, ...]]:
        """Go back to the model of the task before, and bring the method to where this training starts.

        Returns what is to be trained, and the trial's key.
        """
        self.base.restore(self.method)
        self._set(knobs)
        learner = Finetune() if plain and not self.method.isolates_parameters else self.method
        key = self.attach(learner, phase, trial, learning_rate)
        learner.plain = plain
        if not self.params.scenario.online:
            learner.begin_task(self.task)
        return learner, key

    def train(
        self,
        phase: str,
        trial: int,
        learning_rate: float | None,
        knobs: Knobs,
        *,
        plain: bool,
        watch: Callable[[int], None] | None = None,
    ) -> Outcome:
        """Train from the model of the task before; leaves the trained model in place, not yet consolidated.

        `learning_rate`: None where the task is not learned by gradient steps. `plain`: by plain finetuning, within what
        the method leaves free to it. `watch`: see `cl.train.fit`.
        """
        learner, key = self.begin(phase, trial, learning_rate, knobs, plain=plain)
        if not self.trains:
            shown = show(learner, self.task, key, watch)
            return Outcome(shown.accuracy, shown.epochs, shown.steps, shown.step_seconds)
        assert learning_rate is not None
        instability = instability_of(learner, learning_rate)
        planned = self.training.schedule != "plateau"
        last = planned or self.params.scenario.online or self._classes_come
        keep: Literal["best", "last"] = "last" if last else "best"
        trained = self._fit(learner, self.task, key, "task", learning_rate=learning_rate, keep=keep, watch=watch)
        reached = trained.accuracy
        if keep == "last" and not trained.diverged:
            judged = learner.judged_by == "inference"
            reached = accuracy(learner, self.task.validation, inference=judged, task_aware=self._task_aware)
        return Outcome(
            reached,
            trained.epochs,
            trained.steps,
            trained.step_seconds,
            diverged=trained.diverged,
            instability=instability,
        )

    def _fit(self, trainable: Trainable, data: Task, key: Key, purpose: str, **settings: Any) -> Fit:
        """Train by the loop. Where the optimizer's state is kept, it goes on from the last training for this purpose.

        The state then belongs to the method's.
        """
        if self.params.training.optimizer_state == "new":
            return fit(trainable, data, key, **settings)
        kept: dict[str, Moments] = getattr(self.method, "moments_", {})
        moments: Moments = dict(kept.get(purpose, {}))
        trained = fit(trainable, data, key, moments=moments, **settings)
        self.method.moments_ = {**kept, purpose: moments}
        return trained

    @property
    def _classes_come(self) -> bool:
        """Whether new classes are learned beside old ones.

        The new task's validation data then do not tell when to stop: the accuracy on them is highest when everything
        is taken for a new class. So all epochs are run and the last is kept. Validation accuracy is that among the
        task's own classes.
        """
        return self.params.scenario.name == "class" and not self.method.sees_all_tasks

    @property
    def _task_aware(self) -> bool | None:
        """How validation is: a task of one class is told from all classes seen, as alone it would always be right."""
        return True if self._classes_come and len(self.task.classes) > 1 else None

    def consolidate(
        self, phase: str, trial: int, learning_rate: float | None, knobs: Knobs, trained: Outcome
    ) -> Outcome:
        """End the task on the trained model; the accuracy is then that of the method's inference."""
        self._set(knobs)
        key = self.attach(self.method, phase, trial, learning_rate)
        if self.method.selection == "one-pass" and self.trains:  # what was trained is its network
            show(self.method, self.task, key)
        if not self.params.scenario.online:
            self.method.end_task(self.task)
        reached = accuracy(self.method, self.task.validation, inference=True, task_aware=self._task_aware)
        diverged = trained.diverged or any(f.diverged for f in self.extra)
        return Outcome(
            0.0 if diverged else reached,
            trained.epochs + sum(f.epochs for f in self.extra),
            trained.steps + sum(f.steps for f in self.extra),
            trained.step_seconds + sum(f.step_seconds for f in self.extra),
            self._stability() if self.searches_front else None,
            diverged,
            trained.instability,
        )

    @property
    def searches_front(self) -> bool:
        """Whether stability is measured too: there are old tasks, and the params ask for it."""
        return bool(self.params.selection.title) and self.method.decays_knobs() and not self.is_first

    def _stability(self) -> float:
        """Mean accuracy on the old tasks: on what the method keeps of them, or on their validation data."""
        if self.params.selection.stability_on == "holdout":
            old = [task.validation for task in self.sequence.tasks[: self.task.index]]
        else:
            old = self.method.kept(self.task.train.normalise)
            if not old:
                raise UserError(
                    f"methods.{self.name}: keeps no sample of an old task to measure stability on; raise its memory"
                )
        return statistics.fmean(accuracy(self.method, split, inference=True) for split in old)

    def chance(self) -> float | None:
        """The validation accuracy of always naming the most frequent class, within the task where the task is known.

        None for a task of one class, where that is always right.
        """
        split = self.task.validation
        if len(self.task.classes) == 1:
            return None
        y, t = split.y, split.t
        task_aware = self._task_aware or self.params.scenario.name == "task"
        if not task_aware:
            y, t = self.method.net.column(y, t), 0
        groups = [y[t == task] for task in t.unique()] if isinstance(t, Tensor) else [y]
        return sum(int(group.bincount().max()) for group in groups) / len(split)

    def decaying(self, knobs: Knobs) -> Knobs:
        """Those of a method's knobs that the selection decides on."""
        return {name: knobs[name] for name, knob in self.method.knobs.items() if knob.decay is not None}

    def _set(self, knobs: Knobs) -> None:
        for name, value in knobs.items():
            setattr(self.method, name, value)

    def test(self, task_aware: bool | None = None) -> list[float]:
        """Test accuracy on every task up to this one; by default task-aware where the scenario is."""
        seen = self.sequence.tasks[: self.task.index + 1]
        return [accuracy(self.method, task.test, inference=True, task_aware=task_aware) for task in seen]

    def test_other(self) -> list[float] | None:
        """The task-agnostic accuracy where the scenario is task-aware, and the other way round.

        None if that is the same, or impossible.
        """
        task_aware = self.params.scenario.name == "task"
        if self.params.scenario.name == "domain" or (task_aware and self.method.needs_task_id):
            return None
        return self.test(not task_aware)


def instability_of(method: Method, learning_rate: float) -> float | None:
    """`Outcome.instability` of a training that is about to begin; None for Adam, whose steps have their own scale."""
    if method.training.optimizer != "sgd":
        return None
    instability = learning_rate * method.stiffness() / (1 + method.training.momentum)
    return instability if 0 < instability < math.inf else None


def within_budget(name: str, method: Method, budget: int | str | None, sequence: Sequence, increment: str) -> Knobs:
    """The knob that holds a method to the memory that all are given, in samples; none where it keeps no samples.

    Raises `UserError` where it keeps a fixed number of each task and the budget is not by class, or where the budget
    holds not one sample.
    """
    if budget is None or not method.stores_samples or method.sees_all_tasks:
        return {}
    if (why := unbounded(name, budget)) is not None:
        raise UserError(why)
    counts = [len(task.classes) for task in sequence.tasks]
    columns = {column for task in sequence.columns(increment) for column in task}
    classes = max(counts) if increment == "domain" else len(columns)
    if (of_each := of_each_class(budget)) is not None:
        if "memory_budget" in method.knobs:
            return {"memory_budget": of_each * classes}
        if increment == "class" and classes < sum(counts):
            raise UserError(
                f"memory_budget: {name} keeps equally many samples of each task, and a class is in several tasks; "
                f"leave memory_budget out and set methods.{name}.memory_per_task"
            )
        if len(set(counts)) > 1:
            raise UserError(
                f"memory_budget: {name} keeps equally many samples of each task, and the tasks have between "
                f"{min(counts)} and {max(counts)} classes; "
                f"leave memory_budget out and set methods.{name}.memory_per_task"
            )
        return {"memory_per_task": of_each * counts[0]}
    labels = classes if increment == "class" else max(counts)
    each = method.sample_bytes(sequence.tasks[0].train.images[:1].nbytes, labels)
    count = bytes_of(budget) // each if isinstance(budget, str) else budget
    if count < 1:
        raise UserError(f"memory_budget: {budget} is too little: a sample of {name} takes {each} bytes; raise it")
    return {"memory_budget": count}
