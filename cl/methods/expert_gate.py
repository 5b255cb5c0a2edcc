"""Expert Gate: a network for each task, and autoencoders that tell from an image alone whose task it is.

Aljundi, Chakravarty and Tuytelaars, Expert Gate: Lifelong learning with a network of experts, CVPR 2017.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from cl.data import Task, TaskIds
from cl.errors import UserError
from cl.gpu import sent
from cl.knob import knob, shrink
from cl.method import ALL, Method
from cl.nets import drawn_linear
from cl.ops import Tensors, distillation, snapshot
from cl.params import Augmentation, Training
from cl.rng import Key, generator
from cl.trainable import Trainable

FLOOR = -1e9
"""Score of the classes of experts that are not asked: finite, and below every other score."""
GATE_BATCH = 50
"""Images in a step of a gate. A gate needs many steps, whatever batch size suits the networks."""
TINY = 1e-12
"""Keeps the relatedness finite where a gate reconstructs its own task perfectly."""


class ExpertGate(Method):
    """Expert t starts from that of the most related task, and learns by LwF if it is near enough, else by finetuning.

    At test the expert is the one whose gate reconstructs the sample best.
    """

    exports = "by-task"
    isolates_parameters = True
    scenarios = ALL
    judged_by = "inference"  # the network's heads side by side are of no use: each expert has its own head

    transfer: float = knob(10.0, decay=shrink, range=(0, 1e9), help="lambda of LwF towards a related expert")
    temperature: float = knob(2.0, range=(1e-3, 1e3), help="T of LwF's softened distributions")
    related: float = knob(0.85, range=(-1e9, 1e9), help="relatedness above which LwF is used")
    code_size: int = knob(20, range=(1, 1e6), help="units of a gate's code, fewer than an image has numbers")
    gate_learning_rate: float = knob(0.01, range=(1e-9, 1e3), help="learning rate of the gates' Adam")
    gate_epochs: int = knob(50, range=(1, 1e6), help="epochs of a gate's training")
    gate_temperature: float = knob(2.0, range=(1e-9, 1e9), help="t of the gates' softmax over the experts")
    activation: float = knob(1.0, range=(0, 1), help="experts of at least this probability answer too; 1: the best")

    gates_: list[Tensors] | None = None
    """Per task: the autoencoder's tensors."""
    experts_: list[Tensors] | None = None
    """Per task: the network's tensors, without the other tasks' heads."""
    relatedness_: list[list[float]] | None = None
    """Per task: its relatedness to each of the tasks before."""
    _teacher: Tensors | None = None
    _source: int = 0

    def begin_task(self, data: Task) -> None:
        """Train the gate, then go back to the expert of the task it finds most related."""
        gate = self.once("gate", lambda: self._gate(data))  # the same for every attempt at the task
        self.gates_ = [*(self.gates_ or []), gate]
        errors = self._errors(data.validation.x if len(data.validation) else data.train.x).mean(0).tolist()
        related = [relatedness(errors[-1], other) for other in errors[:-1]]
        self.relatedness_ = [*(self.relatedness_ or []), related]
        if not related:
            return
        assert self.experts_ is not None
        self._source = max(range(len(related)), key=related.__getitem__)
        expert = self.experts_[self._source]
        self.net.load_state_dict(expert, strict=False)
        if related[self._source] > self.related and self.transfer and not self.plain:
            self._teacher = expert

    def _gate(self, data: Task) -> Tensors:
        numbers = data.train.normalise(data.train.images[:1]).numel()
        if self.code_size >= numbers:
            raise UserError(
                f"methods.expert_gate.code_size: {self.code_size} units are no bottleneck for images of {numbers} "
                "numbers; make it smaller"
            )
        draw = generator(*self._key[:2], "gate")
        gate = Autoencoder(numbers, self.code_size, draw).to(data.train.normalise.device)
        rate, epochs = self.gate_learning_rate, self.gate_epochs
        if self.fit(data, "gate", _Gate(gate), learning_rate=rate, epochs=epochs, keep="last").diverged:
            raise UserError(
                f"expert_gate: the gate's training diverged on task {self.task + 1}; lower "
                "methods.expert_gate.gate_learning_rate"
            )
        return snapshot(gate.state_dict())

    def loss(self, x: Tensor, y: Tensor, t: TaskIds) -> Tensor:
        """Cross-entropy among the task's own classes, and distillation from a related expert where there is one."""
        learned = F.cross_entropy(self.net(x, self.task), y)
        if self._teacher is None:
            return learned
        with torch.no_grad(), self.net.at_rest():
            teacher = functional_call(self.net, self._teacher, (x, self._source))
        return learned + self.transfer * distillation(self.net(x, self._source), teacher, self.temperature)

    def end_task(self, data: Task) -> None:
        """Keep the expert."""
        heads = {f"heads.{self.net.home(column)[0]}." for column in self.net.columns_of(self.task)}
        kept = {name: p for name, p in self.net.state_dict().items() if name.startswith(("backbone.", *heads))}
        self.experts_ = [*(self.experts_ or []), snapshot(kept)]

    def predict(self, x: Tensor, t: int | None = None) -> Tensor:
        """The expert's scores; without a task, log-probabilities of each sample's own expert and FLOOR elsewhere."""
        if t is not None:
            return self._answer(x, t)
        chances = confidence(self._errors(x), self.gate_temperature)
        asked = (chances >= self.activation) | F.one_hot(chances.argmax(1), chances.shape[1]).bool()
        scores = torch.full((len(x), self.net.width), FLOOR, device=x.device)
        for expert, mine in enumerate(asked.T.cpu()):  # who is asked decides what is computed: a GPU is waited for
            rows = sent(mine.nonzero(), x.device)
            if len(rows):
                answer = self._answer(x[rows.squeeze(1)], expert).log_softmax(1)
                columns = self.net.column(torch.arange(answer.shape[1], device=x.device), expert)
                scores[rows, columns] = torch.maximum(scores[rows, columns], answer)
        return scores

    def route(self, x: Tensor) -> Tensor:
        """The expert that each sample is given to, (N,)."""
        return self._errors(x).argmin(1)

    def _answer(self, x: Tensor, expert: int) -> Tensor:
        experts = self.experts_ or []
        scores: Tensor = (
            functional_call(self.net, experts[expert], (x, expert))
            if expert < len(experts)
            else self.net(x, expert)  # the one that is being trained
        )
        return scores

    def _errors(self, x: Tensor) -> Tensor:
        """Squared distance of each sample to its reconstruction by each gate, (N, gates)."""
        inputs = gate_inputs(x)
        gates = self.gates_ or []
        return torch.stack([(reconstruction(inputs, gate) - inputs).square().sum(1) for gate in gates], 1)


def relatedness(own: float, other: float) -> float:
    """Rel(k, a) = 1 - (Er_a - Er_k) / Er_k, Er_k and Er_a being the errors of the gates of k and a on data of k."""
    return 1 - (other - own) / (own + TINY)


def confidence(errors: Tensor, temperature: float) -> Tensor:
    """softmax(-errors / t) over the gates: errors (N, gates) to probabilities of the same shape."""
    return (-errors / temperature).softmax(1)


def gate_inputs(x: Tensor) -> Tensor:
    """Images (N, C, H, W), standardised, as numbers between 0 and 1 that a gate can reconstruct, (N, C H W)."""
    return torch.sigmoid(x.flatten(1))


def reconstruction(inputs: Tensor, gate: Tensors) -> Tensor:
    """What a gate makes of inputs (N, D), between 0 and 1."""
    return torch.sigmoid(_logits(inputs, gate))


def _logits(inputs: Tensor, gate: Tensors) -> Tensor:
    code = F.linear(inputs, gate["encoder.weight"], gate["encoder.bias"]).relu()
    return F.linear(code, gate["decoder.weight"], gate["decoder.bias"])


class Autoencoder(nn.Module):
    """D numbers -> `size` units -> D logits."""

    def __init__(self, numbers: int, size: int, draw: torch.Generator) -> None:
        super().__init__()
        self.encoder = drawn_linear(numbers, size, draw)
        self.decoder = drawn_linear(size, numbers, draw)

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs (N, D) to the logits of their reconstruction, (N, D)."""
        return _logits(inputs, dict(self.named_parameters()))


class _Gate(Trainable):
    """Cross-entropy of every number of an image with its reconstruction."""

    _order: Tensor

    def __init__(self, net: Autoencoder) -> None:
        self.net = net

    @property
    def augmentation(self) -> Augmentation:
        """None, as at test."""
        return Augmentation()

    def attach(self, net: Any, task: int, training: Training, learning_rate: float, key: Key) -> None:
        super().attach(net, task, training.model_copy(update={"batch_size": GATE_BATCH}), learning_rate, key)

    def optimizer(self, parameters: list[Tensor], learning_rate: float) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, lr=learning_rate, foreach=True)

    def batch(self, x: Tensor, y: Tensor, t: TaskIds) -> tuple[Tensor, Tensor, TaskIds]:
        """Batches in an order that is the same in every trial, so that the gate is the same too."""
        train = self.data.train
        if self.step == 0:
            self._order = torch.randperm(len(train), generator=generator(*self._key[:2], "gate", self.epoch))
        chosen = self._order[self.step * GATE_BATCH :][:GATE_BATCH]
        return train.normalise(train.pictures(chosen)), y, t

    def loss(self, x: Tensor, y: Tensor, t: TaskIds) -> Tensor:
        inputs = gate_inputs(x)
        return F.binary_cross_entropy_with_logits(self.net(inputs), inputs)
