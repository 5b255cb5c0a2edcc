"""Progressive networks: what is frozen stays, bit for bit, and a new column listens to all before it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cl import checkpoint
from cl.errors import UserError
from cl.learner import Learner
from cl.methods.progressive_nets import Adapter, Progressive, ProgressiveNets, blocks
from cl.nets import BatchNorm, build
from cl.params import Model
from cl.rng import generator
from cl.train import Snapshot
from tests.cl import tiny
from tests.cl.small import CPU, learn_tasks, learner_for, mlp, params_for, same

OFF = {"enabled": False}


def grown(tasks: int, classes: int = 3, units: int = 5) -> Progressive:
    """The tiny MLP with so many columns."""
    method = ProgressiveNets()
    net = method.wrap(mlp(units=units, classes=()))
    assert isinstance(net, Progressive)
    for index in range(tasks):
        net.add_head(classes, generator("head", index))
        method.grow(net, index, generator("growth", index))
        net.tasks += 1
    return net


def seen(net: Progressive, x: Tensor) -> list[Tensor]:
    net.eval()
    with torch.no_grad():
        return [net(x, t) for t in range(len(net.heads))]


# The network.


def test_first_column_is_the_given_network() -> None:
    given, net = mlp(classes=(3,)), grown(1)
    net.heads[0].load_state_dict(given.heads[0].state_dict())
    x = torch.rand(6, 1, 1, 4)
    assert list(net.state_dict()) == list(given.state_dict())
    assert torch.equal(net(x, 0), given(x, 0))


def test_columns_are_put_together_by_hand() -> None:
    """The third column's answer, written out: W h + U relu(V [a h of the earlier columns] + b) in every layer."""
    net, x = grown(3), torch.rand(6, 1, 1, 4)

    def adapted(module: nn.Module, hidden: list[Tensor]) -> Tensor:
        assert isinstance(module, Adapter)
        scaled = torch.cat([a * h for a, h in zip(module.scale, hidden, strict=True)], 1)
        return module.project(F.relu(module.reduce(scaled)))  # type: ignore[no-any-return]

    columns = [net.backbone, net.added(1).layers, net.added(2).layers]
    first = [F.relu(layers[1](x.flatten(1))) for layers in columns]
    second: list[Tensor] = []
    for k, layers in enumerate(columns):
        own = layers[3](first[k])
        second.append(F.relu(own + adapted(net.added(k).adapters[0], first[:k]) if k else own))
    expected = net.heads[2](second[2]) + adapted(net.added(2).adapters[1], second[:2])
    torch.testing.assert_close(net(x, 2), expected)
    torch.testing.assert_close(net(x), torch.cat([net(x, t) for t in range(3)], 1))


@pytest.mark.parametrize(("classes", "width"), [(3, 3), (7, 5)])
def test_number_of_parameters(classes: int, width: int) -> None:
    """4 inputs, hidden 5 and 5: an adapter has a factor a column, V with its biases, and U."""
    column = 4 * 5 + 5 + 5 * 5 + 5
    head = 5 * classes + classes
    for tasks in (1, 2, 3):
        into_hidden = sum(k + (5 * k * 5 + 5) + 5 * 5 for k in range(1, tasks))
        into_head = sum(k + (5 * k * width + width) + width * classes for k in range(1, tasks))
        count = sum(p.numel() for p in grown(tasks, classes).parameters())
        assert count == tasks * (column + head) + into_hidden + into_head


def test_only_the_newest_column_and_head_learn() -> None:
    net = grown(3)
    free = {name for name, p in net.named_parameters() if p.requires_grad}
    assert free == {name for name, _ in net.named_parameters() if name.startswith(("columns.1.", "heads.2."))}
    assert {name.split(".")[0] for name, p in grown(1).named_parameters() if p.requires_grad} == {"backbone", "heads"}
    twin = copy.deepcopy(net)
    assert {name for name, p in twin.named_parameters() if p.requires_grad} == free
    x = torch.rand(2, 1, 1, 4)
    twin(x, 2).sum().backward()
    assert all((p.grad is not None) == p.requires_grad for p in twin.parameters())
    assert torch.equal(twin(x, 2), net(x, 2))


def test_growing_leaves_old_answers_bit_for_bit() -> None:
    x = torch.rand(6, 1, 1, 4)
    shorter = grown(2)
    assert all(torch.equal(a, b) for a, b in zip(seen(shorter, x), seen(grown(4), x), strict=False))


@pytest.mark.parametrize("name", ["small", "base", "wide", "deep"])
def test_blocks_of_the_vgg_nets(name: Any) -> None:
    """Each begins with its layer of weights; all together are all layers."""
    backbone = build(Model(name=name), (3, 16, 16), generator(0)).backbone
    found = list(blocks(backbone))
    assert [layer for start, stop in found for layer in backbone[start:stop]] == list(backbone)
    assert all(isinstance(backbone[start], nn.Conv2d | nn.Linear) for start, _ in found)


def test_other_nets_are_refused() -> None:
    params = params_for("progressive_nets", model={"name": "alexnet"})
    with pytest.raises(UserError, match=r"model\.name: progressive_nets .* mlp"):
        Learner(params, "progressive_nets", 0, tiny.images(2, 64), CPU)


def test_column_of_a_resnet_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """An adapter adds to a stage before its last ReLU, and to the head."""
    tiny.narrow(monkeypatch)
    learner = tiny.learner_of("progressive_nets", "resnet", learning_rate=0.01, precision="float32")
    learn_tasks(learner, 2)
    net, x = learner.method.net, learner.sequence.tasks[0].test.x
    assert isinstance(net, Progressive)
    net.eval()
    with torch.no_grad():
        old, new = net.backbone, net.added(1)
        a, b = old[2](old[1](old[0](x))), new.layers[2](new.layers[1](new.layers[0](x)))
        for number in range(4):
            adapter = new.adapters[number]
            more = adapter.project(F.relu(adapter.reduce(adapter.scale * a)))  # type: ignore[operator,union-attr]
            first, second = new.layers[3 + number]  # type: ignore[misc]
            inner = first(b)
            within = second.bn2(second.conv2(F.relu(second.bn1(second.conv1(inner)))))
            a, b = old[3 + number](a), F.relu(within + inner + more)
        a, b = a.mean((2, 3)), b.mean((2, 3))
        head = new.adapters[4]
        expected = net.heads[1](b) + head.project(F.relu(head.reduce(head.scale * a)))  # type: ignore[operator,union-attr]
        torch.testing.assert_close(net(x, 1), expected)


# Learning.


def test_what_is_learned_stays_bit_for_bit(prepared: dict[int, Path]) -> None:
    """Weight decay and momentum included."""
    settings = {"training": {"weight_decay": 0.1}}
    learner = learner_for(params_for("progressive_nets", selection=OFF, **settings), prepared[3])
    x = learner.sequence.tasks[0].test.x[:9]
    before: list[Tensor] = []
    for count in (1, 2, 3):
        learn_tasks_from(learner, count)
        now = seen(learner.method.net, x)  # type: ignore[arg-type]
        assert all(torch.equal(a, b) for a, b in zip(before, now, strict=False))
        before = now
    assert len(before) == 3
    assert not any(torch.equal(a, b) for a, b in ((before[0], before[1]), (before[1], before[2])))


def learn_tasks_from(learner: Learner, number: int) -> None:
    """The task of this number, counted from 1."""
    learner.open(learner.experiences[number - 1])
    trained = learner.train("learn", 0, 0.1, learner.knobs, plain=False)
    learner.consolidate("learn", 0, 0.1, learner.knobs, trained)


def test_a_vgg_net_with_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dropout and batch normalisation: frozen columns are at rest while the newest one trains."""
    tiny.narrow(monkeypatch)
    tiny.ever_better(monkeypatch)
    learner = tiny.learner_of("progressive_nets", "vgg", 3)
    net, x = learner.method.net, learner.sequence.tasks[0].test.x
    assert isinstance(net, Progressive)
    learn_tasks_from(learner, 1)
    learn_tasks_from(learner, 2)
    before = seen(net, x)
    learn_tasks_from(learner, 3)
    after = seen(net, x)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=False))
    net.train()
    resting = {name for name, m in net.named_modules() if isinstance(m, BatchNorm) and not m.training}
    assert resting
    assert all(name.startswith(("backbone.", "columns.0.")) for name in resting)
    moving = [m for name, m in net.named_modules() if name.startswith("columns.1.") and isinstance(m, BatchNorm)]
    assert moving
    assert all(m.training for m in moving)
    assert all(int(m.num_batches_tracked) > 0 for m in moving if m.num_batches_tracked is not None)


def test_a_checkpoint_goes_back_into_a_network_grown_anew(prepared: dict[int, Path], tmp_path: Path) -> None:
    params = params_for("progressive_nets", selection=OFF)
    live, restored = learner_for(params, prepared[3]), learner_for(params, prepared[3])
    learn_tasks(live, 2)
    checkpoint.save(tmp_path / "kept", Snapshot.of(live.method), {}, "key")
    restored.resume(1, checkpoint.load(tmp_path / "kept", "key")[0])
    assert same(Snapshot.of(live.method).net, Snapshot.of(restored.method).net)
    for learner in (live, restored):
        learn_tasks_from(learner, 3)
    free = [{n for n, p in one.method.net.named_parameters() if p.requires_grad} for one in (live, restored)]
    assert free[0] == free[1]
    assert all(name.startswith(("columns.1.", "heads.2.")) for name in free[0])
    assert same(Snapshot.of(live.method).net, Snapshot.of(restored.method).net)


def test_lateral_connections_carry_something_over(prepared: dict[int, Path]) -> None:
    """The factors of the earlier columns move in training."""
    learner = learner_for(params_for("progressive_nets", selection=OFF), prepared[2])
    learn_tasks(learner, 1)
    learner.open(learner.experiences[1])
    adapters = [m for m in learner.method.net.modules() if isinstance(m, Adapter)]
    before = [m.scale.detach().clone() for m in adapters]
    assert [len(scale) for scale in before] == [1]  # one hidden layer: into the head
    learner.train("learn", 0, 0.1, learner.knobs, plain=False)
    assert not any(torch.equal(m.scale, scale) for m, scale in zip(adapters, before, strict=True))
