"""HAT: a task learns which units it needs, and later tasks may not move the weights between them.

Serra et al., Overcoming catastrophic forgetting with hard attention to the task, ICML 2018, equations 1 to 5.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.func import functional_call

from cl.data import Task, TaskIds
from cl.errors import UserError
from cl.knob import knob, shrink
from cl.method import Method
from cl.nets import Block, MultiHead, norms
from cl.ops import Tensors, cross_entropy
from cl.params import Patience

EMBEDDING_BOUND = 6.0
EXPONENT_BOUND = 50.0
GRADIENT_NORM_BOUND = 10_000.0


class Gate(nn.Module):
    """Multiplies each unit (or channel) of its input by sigmoid(s e)."""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.zeros(units))
        self.s: float | None = None
        """The slope s in training; None lets everything through."""
        self.s_max = 1.0
        self.mask: Tensor | None = None
        """A fixed mask instead of the embedding's."""

    def attention(self) -> Tensor:
        """sigmoid(s e), (units,); at the greatest slope outside training."""
        s = self.s if self.training else self.s_max
        return torch.sigmoid((s or 0.0) * self.embedding)

    def forward(self, x: Tensor) -> Tensor:
        """x (N, units, ...) gated, of the same shape."""
        if self.mask is None and self.s is None:
            return x
        mask = self.mask if self.mask is not None else self.attention()
        return x * mask.view(1, -1, *[1] * (x.dim() - 2))


class HAT(Method):
    """L = CE + c R, R the share of units in use that no earlier task uses; gradients of used weights are masked.

    In the plasticity search all units are open, and the weights of earlier tasks are still out of bounds.
    """

    needs_task_id = True
    needs_shared_layers = True
    takes_layers_apart = True
    isolates_parameters = True
    corrects_decay = True
    shares_first_task = False
    patience = Patience(drop_after=15, factor=0.5, stop_after=29)

    s_max: float = knob(800.0, decay=shrink, range=(1, 1e6), help="greatest slope of the masks")
    sparsity: float = knob(2.5, decay=shrink, range=(0, 1e6), help="c: penalty on each unit")
    head: str = knob("fresh", choices=("fresh", "continued"), help="a new head is drawn, or goes on from the last one")

    masks_: list[list[Tensor]] | None = None
    """Per task and gate: the mask at the task's end, (units,)."""
    used_: list[Tensor] | None = None
    """Per gate: the elementwise maximum of the masks so far."""
    norms_: list[Tensors] | None = None
    """Per task: its batch normalisation at the task's end, where the network has any."""
    _open: Tensors | None = None
    """Per shared parameter: the share of its gradient that is let through in this task."""

    @property
    def gates(self) -> list[Gate]:
        """The gates in the order of the layers."""
        return [module for module in self.net.backbone.modules() if isinstance(module, Gate)]

    def wrap(self, net: MultiHead) -> MultiHead:
        """A gate behind every ReLU."""
        return MultiHead(net.backbone.of(gated(net.backbone)), net.feature_size)

    def begin_task(self, data: Task) -> None:
        """Fresh embeddings, uniform in [0, 2], and the masks of the gradients."""
        draw = self.rng("embedding")
        for gate in self.gates:
            gate.embedding.data.copy_(torch.rand(len(gate.embedding), generator=draw) * 2)
            gate.s, gate.s_max = None if self.plain else self.s_max, self.s_max
        self._open = self._let_through() if self.used_ else None
        if self.head == "continued" and self.task > 0:
            before, after = self.net.classes()[self.task - 1 : self.task + 1]
            if before != after:
                raise UserError(
                    f"methods.hat.head: continued needs tasks of one size, not {before} and {after} classes; use fresh"
                )
            self.net.heads[self.task].load_state_dict(self.net.heads[self.task - 1].state_dict())

    def _let_through(self) -> Tensors:
        """1 - min(used(unit of this layer), used(unit of the layer below)) for weights; 1 - used(unit) for biases."""
        assert self.used_ is not None
        free: Tensors = {}
        for name, layer, below, behind in wiring(self.net.backbone):
            here = self.used_[behind]
            if layer.bias is not None:
                free[f"{name}.bias"] = 1 - here
            both = here.unsqueeze(1)
            if below is not None:
                before = self.used_[below]
                inputs = layer.weight.shape[1]  # behind a flattened map each channel stands for its positions
                both = torch.minimum(both, before.repeat_interleave(inputs // len(before)).unsqueeze(0))
            free[f"{name}.weight"] = (1 - both).view(*both.shape, *[1] * (layer.weight.dim() - 2))
        return free

    def loss(self, x: Tensor, y: Tensor, t: TaskIds) -> Tensor:
        """Cross-entropy at the slope of this step, and the price of the units."""
        if self.plain:
            return cross_entropy(self.net, x, y, t)
        share = self.step / (self.steps_per_epoch - 1) if self.steps_per_epoch > 1 else 1.0
        for gate in self.gates:
            gate.s = 1 / self.s_max + (self.s_max - 1 / self.s_max) * share
        return cross_entropy(self.net, x, y, t) + self.sparsity * regulariser(
            [gate.attention() for gate in self.gates], self.used_
        )

    def on_grad(self) -> None:
        """Let no more through than the earlier tasks allow; undo what the slope did to the embeddings' gradients."""
        if self._open is not None:
            shared = self.shared
            for name, free in self._open.items():
                grad = shared[name].grad
                assert grad is not None
                grad *= free
                if self.training.weight_decay:  # the optimizer adds decay * p: leave the masked share of it
                    grad -= self.training.weight_decay * (1 - free) * shared[name].detach()
        if self.plain:
            return
        for gate in self.gates:
            assert gate.embedding.grad is not None
            assert gate.s is not None
            gate.embedding.grad *= compensation(gate.embedding.detach(), gate.s, self.s_max)
        for p in self.net.parameters():
            if p.grad is not None:
                nn.utils.clip_grad_norm_([p], GRADIENT_NORM_BOUND)
        for gate in self.gates:
            assert gate.embedding.grad is not None
            gate.embedding.grad -= self.training.weight_decay * gate.embedding.detach()  # embeddings do not decay

    def on_step(self, x: Tensor, y: Tensor, t: TaskIds) -> None:
        """Keep the embeddings where their sigmoid still has a gradient."""
        for gate in self.gates:
            gate.embedding.data.clamp_(-EMBEDDING_BOUND, EMBEDDING_BOUND)

    def end_task(self, data: Task) -> None:
        """Keep the task's masks, at the slope it was trained with, and its batch normalisation."""
        self.net.eval()
        masks = [gate.attention().detach().clone() for gate in self.gates]
        self.masks_ = [*(self.masks_ or []), masks]
        used = self.used_ or masks
        self.used_ = [torch.maximum(u, mask) for u, mask in zip(used, masks, strict=True)]
        if own := norms(self.net.backbone):
            self.norms_ = [*(self.norms_ or []), own]

    def predict(self, x: Tensor, t: int | None = None) -> Tensor:
        """Scores through the masks of task t."""
        assert self.masks_ is not None
        assert t is not None
        for gate, mask in zip(self.gates, self.masks_[t], strict=True):
            gate.mask = mask
        try:
            features = functional_call(self.net.backbone, self.norms_[t] if self.norms_ else {}, (x,))
            return self.net.logits(features, t)
        finally:
            for gate in self.gates:
                gate.mask = None


def gated(layers: nn.Sequential) -> list[nn.Module]:
    """The layers with a gate behind every ReLU, within their parts and blocks too."""
    with_gates: list[nn.Module] = []
    units = 0
    for layer in layers:
        units = getattr(layer, "out_channels", getattr(layer, "out_features", units))
        if isinstance(layer, Block):
            for name in ("relu1", "relu2"):
                setattr(layer, name, nn.Sequential(getattr(layer, name), Gate(layer.conv2.out_channels)))
        with_gates.append(nn.Sequential(*gated(layer)) if isinstance(layer, nn.Sequential) else layer)
        if isinstance(layer, nn.ReLU):
            with_gates.append(Gate(units))
    return with_gates


def wiring(backbone: nn.Sequential) -> Iterator[tuple[str, nn.Conv2d | nn.Linear, int | None, int]]:
    """For each layer with weights: name, layer, numbers of the gate its inputs come through and of that behind it.

    None where the inputs are the images. Where two paths meet at the end of a block, both end at the block's last gate.
    """
    passed = entered = 0
    for name, module in backbone.named_modules():
        if isinstance(module, Block):
            entered = passed
        elif isinstance(module, Gate):
            passed += 1
        elif isinstance(module, nn.Conv2d | nn.Linear):
            before = entered if "downsample" in name else passed
            yield name, module, before - 1 if before else None, passed


def regulariser(attention: list[Tensor], used: list[Tensor] | None) -> Tensor:
    """sum a (1 - used) / sum (1 - used) over all units (eq. 5); the mean of a where nothing, or everything, is used."""
    a = torch.cat(attention)
    room = 1 - torch.cat(used) if used is not None else torch.ones_like(a)
    room = torch.where(room.sum() > 0, room, 1.0)
    return (a * room).sum() / room.sum()


def compensation(embedding: Tensor, s: float, s_max: float) -> Tensor:
    """(s_max / s) (cosh(s e) + 1) / (cosh(e) + 1), its exponent bounded (section 2.5)."""
    steep = torch.cosh((s * embedding).clamp(-EXPONENT_BOUND, EXPONENT_BOUND)) + 1
    return s_max / s * steep / (torch.cosh(embedding) + 1)
