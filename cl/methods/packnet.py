"""PackNet: give each task its own few weights, prune them to the largest, and freeze them for good.

Mallya and Lazebnik, PackNet: Adding multiple tasks to a single network by iterative pruning, CVPR 2018.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import functional_call

from cl.data import Task, TaskIds
from cl.knob import knob, shrink
from cl.method import Method
from cl.nets import BatchNorm, norm_layers, norms
from cl.ops import Tensors


class PackNet(Method):
    """Train the free weights, prune the smallest of them, retrain the rest; owned weights never change again.

    The training itself is the plasticity search's; an attempt of the stability decay is one pruning and retraining.
    Biases are trained before the first pruning only; each task has a batch normalisation of its own.
    """

    needs_task_id = True
    needs_shared_layers = True
    isolates_parameters = True
    shares_first_task = False
    selection = "consolidation-decay"

    prune: float = knob(0.9, decay=shrink, range=(0, 1), help="share of a task's weights set free, per layer")
    retrain_epochs: int = knob(10, range=(0, 1e6), help="epochs after pruning, at a tenth of the learning rate")

    owner_: Tensors | None = None
    """Per weight tensor: 0 free, s + 1 owned by task s; int16."""
    pruned_: bool = False
    norms_: list[Tensors] | None = None
    """Per task: its batch normalisation at the task's end, where the network has any."""
    _norms: dict[str, BatchNorm] | None = None
    _fixed: Tensors | None = None

    def begin_task(self, data: Task) -> None:
        """The free weights become this task's."""
        weights = {name: p for name, p in self.shared.items() if p.dim() > 1}
        owner = self.owner_ or {name: torch.zeros_like(p, dtype=torch.int16) for name, p in weights.items()}
        self.owner_ = {name: torch.where(o == 0, self.task + 1, o).to(torch.int16) for name, o in owner.items()}
        self.pruned_ = False
        self._fix()

    def _fix(self) -> None:
        """Weight decay moves weights without a gradient, so with it those of other tasks are put back every step."""
        self._norms = norm_layers(self.net.backbone)
        decays = self.training.weight_decay > 0
        self._fixed = {name: p.detach().clone() for name, p in self.shared.items()} if decays else None

    def _mine(self, name: str) -> Tensor | bool:
        assert self.owner_ is not None
        assert self._norms is not None
        owner = self.owner_.get(name)
        if owner is None:
            return (self.task == 0 and not self.pruned_) or name.rpartition(".")[0] in self._norms
        return owner == self.task + 1

    def on_grad(self) -> None:
        """Only this task's own weights move."""
        if self.task == 0 and not self.pruned_:
            return
        for name, p in self.shared.items():
            assert p.grad is not None
            p.grad *= self._mine(name)

    def on_step(self, x: Tensor, y: Tensor, t: TaskIds) -> None:
        """Undo what weight decay did to the weights of other tasks."""
        if self._fixed is None or (self.task == 0 and not self.pruned_):
            return
        with torch.no_grad():
            for name, p in self.shared.items():
                mine = self._mine(name)
                p.copy_(torch.where(torch.as_tensor(mine, device=p.device), p, self._fixed[name]))

    def end_task(self, data: Task) -> None:
        """Set the smallest of this task's weights free, layer by layer, and retrain what is left."""
        assert self.owner_ is not None
        self.owner_ = {name: owner.clone() for name, owner in self.owner_.items()}
        for name, owner in self.owner_.items():
            weight = self.shared[name].data
            smallest = to_prune(weight, owner == self.task + 1, self.prune)
            weight[smallest] = 0
            owner[smallest] = 0
        self.pruned_ = True
        self._fix()
        if self.retrain_epochs:
            self.fit(
                data,
                "retrain",
                learning_rate=0.1 * self.learning_rate,
                epochs=self.retrain_epochs,
                may_stay=True,
            )
        if own := norms(self.net.backbone):
            self.norms_ = [*(self.norms_ or []), own]

    def predict(self, x: Tensor, t: int | None = None) -> Tensor:
        """Scores from the weights owned by task t and the tasks before it."""
        assert self.owner_ is not None
        assert t is not None
        seen = {name: p * self._seen(name, t) for name, p in self.shared.items() if name in self.owner_}
        own = self.norms_[t] if self.norms_ else {}
        return self.net.logits(functional_call(self.net.backbone, {**seen, **own}, (x,)), t)

    def _seen(self, name: str, t: int) -> Tensor:
        assert self.owner_ is not None
        owner = self.owner_[name]
        return (owner > 0) & (owner <= t + 1)


def to_prune(weight: Tensor, mine: Tensor, share: float) -> Tensor:
    """Mask of the weights to free: of the n that are mine, those up to the round(share n)-th smallest magnitude."""
    size = weight[mine].abs()
    count = round(share * len(size))
    if count == 0:
        return torch.zeros_like(mine)
    # Sorted whole: of `kthvalue` there is no deterministic kernel on a GPU in every version of torch.
    return mine & (weight.abs() <= size.sort().values[count - 1])
