"""iCaRL: keep samples whose mean is near each class's mean, distil on them, and classify by the nearest mean.

Rebuffi et al., iCaRL: Incremental classifier and representation learning, CVPR 2017, algorithms 1 to 5:
class-incremental. Made task-incremental as in De Lange et al. 2021: both losses and the nearest mean stay within a
task's classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from cl.data import Split, Task, TaskIds, held
from cl.data.task import Normalise
from cl.errors import UserError
from cl.gpu import sent
from cl.knob import knob, shrink
from cl.memory import herd
from cl.method import Method
from cl.ops import Tensors, distances, occurrences, snapshot
from cl.rehearsal import draw, per_step

FLOOR = -1e9
"""Instead of minus infinity for the logits of other tasks' classes: 0 times it is 0."""
NONE = torch.empty(0, dtype=torch.int64)


class ICaRL(Method):
    """L = CE(new samples) + lambda mean_s T^2 KL(old network || network) on exemplars of each old task s.

    Both terms stay within a task's classes. In class-incremental learning the cross-entropy is that of new samples and
    exemplars among all classes seen, and old answers are kept among all old classes.
    With `losses: sigmoid`, as in the paper, L is the sum of the classes' binary cross-entropies: with the labels where
    the task has the class, and lambda times with the old network's answers where it has not.
    """

    stores_samples = True
    scenarios = frozenset({"task", "class"})

    strength: float = knob(10.0, decay=shrink, range=(0, 1e9), help="lambda")
    temperature: float = knob(2.0, range=(1e-3, 1e3), help="T of the softened distributions")
    memory_budget: int = knob(4500, range=(1, 1e9), help="exemplars kept over all classes together")
    distillation: str = knob("mean", choices=("mean", "accumulated"), help="how the old tasks' terms are put together")
    targets: str = knob(
        "renewed",
        choices=("renewed", "fixed"),
        help="answers to keep: of the last network, or of the first that knew a class",
    )
    features: str = knob("unit", choices=("unit", "raw"), help="length of the features whose means classify")
    layer: str = knob("last", choices=("last", "convolutional"), help="layer whose output the features are")
    losses: str = knob(
        "softmax", choices=("softmax", "sigmoid"), help="one answer among the classes, or one for each", younger=True
    )

    exemplars_: list[list[Tensor]] | None = None
    """Per task and class that came first with it: images (K, C, H, W) uint8, the first chosen first."""
    means_: list[Tensor] | None = None
    """Per task: the normalised mean feature of the exemplars of each of these classes, (classes, F)."""
    targets_: list[list[Tensor]] | None = None
    """Where targets are fixed, per task and class as above: the logits (K, classes) when its last task ended, for the
    task's classes or in class-incremental learning for all seen by then."""
    _replay: dict[str, Tensor] | None = None
    _drawn: Tensor | None = None
    """Which of them are in this step."""
    _tasks: Tensor
    """The tasks that these are of, each once."""
    _teacher: Tensors | None = None
    """The network as the last task left it, where it has to answer for new samples."""
    _old: Tensor | None = None
    """The columns (classes seen,) that are not the task's, where the losses are sigmoid."""

    def starts_as_finetuning(self) -> bool:
        """False with losses of its own."""
        return self.losses == "softmax"

    def begin_task(self, data: Task) -> None:
        """The exemplars as the network takes them, and the answers to them that are to be kept."""
        if self.losses == "sigmoid":
            own = torch.tensor(self.net.columns_of(self.task))
            self._old = ~torch.isin(torch.arange(self.net.width), own).to(data.train.normalise.device)
        if not self.exemplars_ or self.strength == 0:
            return
        counts = torch.tensor([sum(len(images) for images in task) for task in self.exemplars_])
        kept = torch.cat([images.cpu() for task in self.exemplars_ for images in task])
        x = data.train.normalise(kept)
        y = torch.cat([labels_of(task, self.net.brought(s)) for s, task in enumerate(self.exemplars_)])
        t = torch.arange(len(counts)).repeat_interleave(counts).to(x.device)
        self.net.eval()
        with torch.no_grad():
            size = data.train.chunk(self.training.batch_size)
            parts = zip(x.split(size), t.split(size), strict=True)
            logits = torch.cat([self.net(part, self.net.scope(ids)).clamp(min=FLOOR) for part, ids in parts])
        if self.net.increment == "class":  # the old network had no answer for the new classes
            logits = logits[:, : self.net.groups(self.task)[0].stop]
        row = column = 0
        for task in self.targets_ or []:
            for first in task:
                logits[row : row + len(first), column : column + first.shape[1]] = first
                row += len(first)
            column += task[0].shape[1] if self.net.increment == "task" else 0
        wanted = torch.tensor(per_step(self.training.batch_size, len(data.train), self.memory_budget))
        kept, y = kept.to(x.device), y.to(x.device)
        counts = counts[counts > 0]  # a task of old classes alone has brought none
        self._replay = {"images": kept, "y": y, "t": t, "logits": logits, "counts": counts, "wanted": wanted}
        if self.losses == "sigmoid" and self.net.increment == "class":
            self._teacher = snapshot(self.net.state_dict())

    def batch(self, x: Tensor, y: Tensor, t: TaskIds) -> tuple[Tensor, Tensor, TaskIds]:
        """The new samples, then exemplars, equally many of the classes that each old task brought."""
        if self._replay is None:
            return x, y, t
        replay = self._replay
        chosen = draw(replay["counts"], int(replay["wanted"]), self.rng("replay"))
        self._drawn = drawn = sent(chosen, x.device)
        ends = replay["counts"].cumsum(0)
        self._tasks = sent(torch.bucketize(chosen, ends, right=True).unique(), x.device)
        old = self.view(replay["images"][drawn], "replay")
        ids = torch.full_like(y, self.task)
        return torch.cat([x, old]), torch.cat([y, replay["y"][drawn]]), torch.cat([ids, replay["t"][drawn]])

    def loss(self, x: Tensor, y: Tensor, t: TaskIds) -> Tensor:
        """Cross-entropy on the new samples, or among all classes on all samples; distillation on the exemplars."""
        if self.losses == "sigmoid":
            return self._sigmoid(x, y, t)
        if self._replay is None or self._drawn is None:
            return super().loss(x, y, t)
        assert isinstance(t, Tensor)
        new = len(x) - len(self._drawn)
        features = self.net.backbone(x)
        if self.net.increment == "task":
            learned = F.cross_entropy(self.net.logits(features[:new], self.task), y[:new])
        else:
            learned = F.cross_entropy(self.net.logits(features), self.net.label(y, t))
        student = self.net.logits(features[new:], self.net.scope(t[new:])).clamp(min=FLOOR)
        teacher = self._replay["logits"][self._drawn]
        each = divergence(student[:, : teacher.shape[1]], teacher, self.temperature)
        counts = occurrences(t[new:], self.task)
        of_task = torch.zeros_like(counts, dtype=each.dtype).index_add(0, t[new:], each)[self._tasks]
        of_task = (of_task / counts[self._tasks]).clamp(min=0)
        combine = accumulated if self.distillation == "accumulated" else mean
        return learned + combine(of_task, self.strength)

    def _sigmoid(self, x: Tensor, y: Tensor, t: TaskIds) -> Tensor:
        """The paper's loss (its algorithm 3): the mean over the samples of the classes' binary cross-entropies.

        In task-incremental learning these are the classes of the sample's task. The old answers are then those to the
        exemplars alone.
        """
        assert self._old is not None
        ids = t if isinstance(t, Tensor) else torch.full_like(y, t)
        logits = self.net(x, self.net.scope(ids)).clamp(min=FLOOR)
        columns = torch.arange(logits.shape[1], device=x.device)
        targets = (columns == self.net.column(y, ids).unsqueeze(1)).to(logits)
        old = self._old if self.net.increment == "class" else (ids != self.task).unsqueeze(1)
        if self._replay is not None:
            targets = torch.where(old, torch.sigmoid(self._before(x, logits) / self.temperature), targets)
        weights = torch.where(old, self.strength, 1.0)
        return F.binary_cross_entropy_with_logits(logits, targets, weights, reduction="sum") / len(x)

    def _before(self, x: Tensor, logits: Tensor) -> Tensor:
        """What the old network answered where that is asked for, as wide as `logits`."""
        assert self._replay is not None
        assert self._drawn is not None
        kept = self._replay["logits"][self._drawn]
        before = torch.zeros_like(logits)
        before[len(x) - len(kept) :, : kept.shape[1]] = kept
        if self._teacher is not None:
            new = x[: len(x) - len(kept)]
            with torch.no_grad(), self.net.at_rest():
                before[: len(new)] = functional_call(self.net, self._teacher, (new,))
        return before

    def end_task(self, data: Task) -> None:
        """Cut the old classes to their share of the budget, herd those of the task, and compute the means anew.

        Exemplars of a class that comes again are herded from the old ones and the new images together.
        """
        classes = self.net.width
        share = self.memory_budget // classes
        if share == 0:
            raise UserError(
                f"methods.icarl.memory_budget: {self.memory_budget} exemplars cannot hold one of each of the {classes} "
                "classes seen; raise it"
            )
        self.net.eval()
        before = [*(self.exemplars_ or []), [torch.empty(0)] * len(self.net.brought(self.task))]
        self.exemplars_ = [[images[:share].clone() for images in task] for task in before]
        if self.targets == "fixed":
            answers = [*(self.targets_ or []), [torch.empty(0)] * len(before[-1])]
            self.targets_ = [[logits[:share].clone() for logits in task] for task in answers]
        for label, column in enumerate(self.net.columns_of(self.task)):
            task, place = self.net.home(column)
            images = data.train.images[(data.train.y == label).cpu()]
            if task < self.task:
                images = torch.cat([before[task][place].cpu(), images])
            chosen = images[herd(self._features(data.train, images), share).cpu()].clone()
            self.exemplars_[task][place] = chosen
            if self.targets_ is not None and self.targets == "fixed":
                with torch.no_grad():
                    first = self.net(data.train.normalise(chosen), self.net.scope(self.task))
                self.targets_[task][place] = first
        kept = [images for task in self.exemplars_ for images in task]
        means = torch.stack([self._scaled(self._features(data.train, images).mean(0)) for images in kept])
        parts = means.split([len(task) for task in self.exemplars_])
        self.means_ = [part.clone() for part in parts]

    def kept(self, normalise: Normalise) -> list[Split]:
        """The exemplars of the classes of each old task."""
        of_column = [images for task in self.exemplars_ or [] for images in task]
        splits = []
        for s in range(min(self.task, len(self.exemplars_ or []))):
            own = [of_column[column] for column in self.net.columns_of(s)]
            splits.append(held(torch.cat(own), labels_of(own, range(len(own))), s, normalise))
        return splits

    @torch.no_grad()
    def _features(self, split: Split, images: Tensor) -> Tensor:
        parts = [
            self._features_of(split.normalise(part)) for part in images.split(split.chunk(self.training.batch_size))
        ]
        return torch.cat(parts)

    def _features_of(self, x: Tensor) -> Tensor:
        layers = self.net.backbone if self.layer == "last" else self.net.parts()[0]
        return self._scaled(layers(x))

    def _scaled(self, features: Tensor) -> Tensor:
        return F.normalize(features, dim=-1) if self.features == "unit" else features

    def predict(self, x: Tensor, t: int | None = None) -> Tensor:
        """Minus the distance to each class's mean exemplar feature."""
        assert self.means_ is not None
        means = torch.cat(self.means_)
        means = means if t is None else self.net.own(means, t, dim=0)
        return -distances(self._features_of(x), means)


def labels_of(parts: Sequence[Tensor], labels: Sequence[int]) -> Tensor:
    """The label of each image (N,), of the parts laid end to end."""
    return torch.cat([torch.full((len(part),), label) for part, label in zip(parts, labels, strict=True)] or [NONE])


def divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL(softmax(teacher / T) || softmax(student / T)) of each sample, (N,), from logits (N, classes)."""
    log_q = F.log_softmax(student / temperature, 1)
    return temperature**2 * F.kl_div(log_q, F.softmax(teacher / temperature, 1), reduction="none").sum(1)


def mean(terms: Tensor, strength: float) -> Tensor:
    """lambda times the mean of the old tasks' terms (tasks,)."""
    return strength * terms.mean()


def accumulated(terms: Tensor, strength: float) -> Tensor:
    """As the survey's code puts them together: sum_k S_k with S_k = lambda (S_{k-1} + e_k) / k (quirk Q08)."""
    total = part = torch.zeros_like(terms[0])
    for k, term in enumerate(terms, start=1):
        part = strength * (part + term) / k
        total = total + part
    return total
