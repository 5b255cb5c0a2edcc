"""HAT. Golden values by hand from equations 1 to 5 and section 2.5 of Serra et al. (2018)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cl.errors import UserError
from cl.methods.hat import HAT, Gate, compensation, regulariser, wiring
from cl.nets import BatchNorm, MultiHead, build
from cl.ops import cross_entropy
from cl.params import Model
from cl.rng import generator
from tests.cl.small import attach, learn_tasks, mlp, same, toy_task
from tests.cl.tiny import NETS, ever_better, learner_of, narrow

DATA = toy_task([[1, 0, 0, 2], [0, 1, 3, 0], [2, 2, 0, 1]], [0, 1, 2])


def wrapped(net: MultiHead, task: int = 0, **knobs: Any) -> HAT:
    method = HAT(**knobs)
    gated = method.wrap(net)
    for head in net.heads:
        gated.add_head(head.out_features, torch.Generator())  # type: ignore[arg-type]
        gated.heads[-1] = head
    return attach(method, gated, task, batch_size=8)  # type: ignore[no-any-return]


def test_slope_rises_over_the_epoch() -> None:
    method = wrapped(mlp())
    method.begin_task(DATA)
    method.steps_per_epoch = 40
    slopes = []
    for step in range(40):
        method.step = step
        method.loss(DATA.train.x, DATA.train.y, 0)
        slopes.append({gate.s for gate in method.gates})
    assert all(len(slope) == 1 for slope in slopes)
    values = [slope.pop() for slope in slopes]
    assert [values[i] for i in (0, 1, 20, 39)] == pytest.approx([0.00125, 20.514038, 410.257019, 800], rel=1e-6)


def test_epoch_of_one_step_is_at_the_greatest_slope() -> None:
    method = wrapped(mlp())
    method.begin_task(DATA)
    method.steps_per_epoch = 1
    method.loss(DATA.train.x, DATA.train.y, 0)
    assert method.gates[0].s == 800


def test_evaluation_is_at_the_greatest_slope() -> None:
    gate = Gate(2)
    gate.embedding.data.copy_(torch.tensor([0.5, -0.01]))
    gate.s, gate.s_max = 10.0, 100.0
    gate.train()
    torch.testing.assert_close(gate.attention(), torch.sigmoid(torch.tensor([5.0, -0.1])))
    gate.eval()
    torch.testing.assert_close(gate.attention(), torch.sigmoid(torch.tensor([50.0, -1.0])))


def test_compensation() -> None:
    found = [
        float(compensation(torch.tensor([e], dtype=torch.float64), s, 800.0))
        for e, s in ((0.0, 10.0), (0.5, 10.0), (1.0, 0.00125))
    ]
    assert found == pytest.approx([80, 2827.938736, 503326.745710], rel=1e-9)
    assert bool(torch.isfinite(compensation(torch.tensor([6.0, -6.0]), 800.0, 800.0)).all())


def test_regulariser() -> None:
    a = [torch.tensor([0.2, 0.4]), torch.tensor([0.9])]
    assert float(regulariser(a, None)) == pytest.approx(0.5)
    assert float(regulariser(a, [torch.zeros(2), torch.zeros(1)])) == pytest.approx(0.5)
    used = [torch.tensor([1.0, 0.5]), torch.tensor([0.0])]
    assert float(regulariser(a, used)) == pytest.approx((0.4 * 0.5 + 0.9) / 1.5)
    assert float(regulariser(a, [torch.ones(2), torch.ones(1)])) == pytest.approx(0.5)


USED = [torch.tensor([1.0, 0.9, 0.5, 0.0, 0.2]), torch.tensor([0.95, 0.3, 1.0, 0.7, 0.0])]


@pytest.mark.parametrize("used", [None, USED], ids=["first", "later"])
def test_loss_is_cross_entropy_and_the_price_of_units(used: list[Tensor] | None) -> None:
    method = wrapped(mlp(), sparsity=3.0)
    method.begin_task(DATA)
    method.used_ = used
    for gate in method.gates:
        gate.embedding.data.copy_(torch.tensor([1.0, -1.0, 1.0, -1.0, -1.0]))
    method.steps_per_epoch, method.step = 2, 1
    method.net.train()
    found = method.loss(DATA.train.x, DATA.train.y, 0)
    share = regulariser([gate.attention() for gate in method.gates], used)
    torch.testing.assert_close(found, cross_entropy(method.net, DATA.train.x, DATA.train.y, 0) + 3 * share)


def test_embeddings_start_uniform_and_stay_bounded() -> None:
    method = wrapped(mlp(units=400))
    method.begin_task(DATA)
    values = torch.cat([gate.embedding.detach() for gate in method.gates])
    assert 0 <= float(values.min()) < 0.1
    assert 1.9 < float(values.max()) <= 2
    method.gates[0].embedding.data.fill_(99)
    method.gates[1].embedding.data.fill_(-99)
    method.on_step(DATA.train.x, DATA.train.y, 0)
    assert [float(gate.embedding.data[0]) for gate in method.gates] == [6, -6]


def conv_net(heads: int = 2) -> MultiHead:
    """Two convolutions, a pooling, and a linear layer on the flattened map."""
    draw = torch.Generator().manual_seed(0)
    backbone = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(3, 4, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(4 * 2 * 2, 5),
        nn.ReLU(),
    )
    for p in backbone.parameters():
        p.data.uniform_(-1, 1, generator=draw)
    net = MultiHead(backbone, 5)
    for _ in range(heads):
        net.add_head(3, draw)
    return net


def masks(method: HAT, draw: torch.Generator) -> list[Tensor]:
    return [torch.rand(len(gate.embedding), generator=draw) for gate in method.gates]


def test_gradients_are_let_through_by_the_min_rule() -> None:
    method = wrapped(mlp(classes=(3, 3)), task=1)
    below, here = torch.tensor([1.0, 0.5, 0.0, 1.0, 0.2]), torch.tensor([1.0, 0.3, 0.0, 0.7, 1.0])
    method.used_ = [below, here]
    free = method._let_through()
    for j in range(5):
        assert torch.allclose(free["1.weight"][j], 1 - below[j])
        for i in range(5):
            assert float(free["4.weight"][i, j]) == pytest.approx(1 - min(float(here[i]), float(below[j])))
    torch.testing.assert_close(free["4.bias"], 1 - here)
    torch.testing.assert_close(free["1.bias"], 1 - below)
    assert set(free) == {"1.weight", "1.bias", "4.weight", "4.bias"}


def test_gradients_of_a_convolutional_network() -> None:
    method = wrapped(conv_net(), task=1)
    assert [len(gate.embedding) for gate in method.gates] == [3, 4, 5]
    draw = torch.Generator().manual_seed(1)
    first, second, third = method.used_ = masks(method, draw)
    free = method._let_through()
    names = [name for name in method.shared if name.endswith("weight")]
    conv1, conv2, linear = (free[name] for name in names)
    for i in range(3):
        assert torch.allclose(conv1[i], 1 - first[i])
    for i in range(4):
        for j in range(3):
            assert torch.allclose(conv2[i, j], 1 - torch.minimum(second[i], first[j]))
    for i in range(5):
        for position in range(16):  # four positions of each of the four channels in turn
            assert torch.allclose(linear[i, position], 1 - torch.minimum(third[i], second[position // 4]))
    for name, factor in free.items():
        torch.broadcast_tensors(factor, method.shared[name])


@pytest.mark.parametrize("net", [mlp(inputs=16, units=8, classes=(3, 3)), conv_net()], ids=["mlp", "conv"])
def test_binary_masks_keep_old_logits_through_any_training(net: MultiHead) -> None:
    """Half of the units are fully used; steps of the second task, weight decay included, must not be felt."""
    method = wrapped(net, task=0, s_max=800.0)
    draw = torch.Generator().manual_seed(2)
    for gate in method.gates:
        gate.embedding.data.copy_(torch.where(torch.arange(len(gate.embedding)) % 2 == 0, 6.0, -6.0))
        gate.s_max, gate.s = 800.0, 800.0
    x = torch.rand(5, 1, 4, 4, generator=draw)
    data = toy_task([[1] * 16], [0])
    method.end_task(data)
    assert all(set(mask.tolist()) == {0.0, 1.0} for mask in method.masks_[0])
    with torch.no_grad():
        before = method.predict(x, 0)
    method.attach(method.net, 1, method.training, 0.1, (0, 1))
    method.begin_task(data)
    method.steps_per_epoch = 5
    optimizer = torch.optim.SGD(method.net.parameters(), lr=0.3, momentum=0.9)
    weights = {name: p.detach().clone() for name, p in method.shared.items()}
    for step in range(5):
        method.net.train()
        method.step = step
        optimizer.zero_grad()
        method.loss(torch.rand(4, 1, 4, 4, generator=draw), torch.tensor([0, 1, 2, 0]), 1).backward()
        method.on_grad()
        optimizer.step()
        method.on_step(x, torch.tensor([0]), 1)
    assert any(not torch.equal(p, weights[name]) for name, p in method.shared.items())
    method.net.eval()
    with torch.no_grad():
        torch.testing.assert_close(method.predict(x, 0), before, atol=1e-5, rtol=1e-5)


def test_soft_masks_let_their_share_of_the_gradient_through() -> None:
    """What a step may move of an earlier task is bounded by how far its masks are from binary."""
    grads = []
    for used in (None, USED):
        method = wrapped(mlp(classes=(3, 3)), task=1)
        method.used_ = used
        method.plain = True
        method.begin_task(DATA)
        method.net.train()
        method.loss(DATA.train.x, DATA.train.y, 1).backward()
        method.on_grad()
        grads.append({name: p.grad for name, p in method.shared.items()})
        free = method._open
    assert free is not None
    for name, share in free.items():
        assert bool(grads[0][name].any())
        torch.testing.assert_close(grads[1][name], share * grads[0][name])


def test_old_masks_stay_as_they_were() -> None:
    method = wrapped(mlp(classes=(3, 3)))
    method.begin_task(DATA)
    method.end_task(DATA)
    first = [mask.clone() for mask in method.masks_[0]]
    method.attach(method.net, 1, method.training, 0.1, (0, 1))
    method.s_max = 1.0
    method.begin_task(DATA)
    assert not torch.equal(method.gates[0].embedding, first[0])
    method.end_task(DATA)
    assert all(torch.equal(a, b) for a, b in zip(method.masks_[0], first, strict=True))
    second = method.masks_[1]
    for used, a, b in zip(method.used_, first, second, strict=True):
        assert torch.equal(used, torch.maximum(a, b))


def test_plasticity_search_opens_all_units_and_guards_old_weights() -> None:
    method = wrapped(mlp(classes=(3, 3)), task=1)
    method.used_ = [torch.tensor([1.0, 0, 0, 0, 0]), torch.tensor([1.0, 0, 0, 0, 0])]
    method.plain = True
    method.begin_task(DATA)
    method.net.train()
    loss = method.loss(DATA.train.x, DATA.train.y, 1)
    torch.testing.assert_close(loss, cross_entropy(mlp(classes=(3, 3)), DATA.train.x, DATA.train.y, 1))
    loss.backward()
    method.on_grad()
    weight: Any = method.shared["1.weight"].grad
    assert not bool(weight[0].any())
    assert bool(weight[1:].any())
    assert all(gate.embedding.grad is None for gate in method.gates)


def test_weight_decay_does_not_reach_used_weights() -> None:
    """The survey's code adds weight decay before the gradient is masked, so that owned weights do not decay."""
    from cl.train import fit

    method = wrapped(mlp(classes=(3, 3)), task=1)
    method.training = method.training.model_copy(update={"weight_decay": 0.1, "epochs": 2})
    method.used_ = [torch.tensor([1.0, 0, 0, 0, 0]), torch.tensor([1.0, 0, 0, 0, 0])]
    method.masks_ = [method.used_]
    method.begin_task(DATA)
    before = method.shared["1.weight"].detach().clone()
    fit(method, DATA, (0, 1), learning_rate=0.05)
    after = method.shared["1.weight"].detach()
    assert not torch.equal(after[1:], before[1:])
    torch.testing.assert_close(after[0], before[0], atol=1e-6, rtol=0)


def test_gradients_of_the_embeddings_are_compensated_and_bounded_and_do_not_decay() -> None:
    """What decay the optimizer adds to them is taken off beforehand, behind the bound."""
    method = wrapped(mlp())
    method.training = method.training.model_copy(update={"weight_decay": 0.1})
    method.begin_task(DATA)
    method.steps_per_epoch, method.step = 40, 1
    method.loss(DATA.train.x, DATA.train.y, 0).backward()
    small, large = method.gates
    for gate, grad in ((small, 1e-3), (large, 1e9)):
        gate.embedding.data.uniform_(0, 0.2, generator=torch.Generator().manual_seed(0))
        gate.embedding.grad = torch.linspace(-grad, grad, 5)
    factor = compensation(small.embedding.detach(), 20.514038, 800.0)
    assert float(factor.min()) > 39
    method.on_grad()
    found = [gate.embedding.grad + 0.1 * gate.embedding.detach() for gate in (small, large)]
    torch.testing.assert_close(found[0], factor * torch.linspace(-1e-3, 1e-3, 5))
    assert float(found[1].norm()) == pytest.approx(10_000, rel=1e-5)
    torch.testing.assert_close(found[1] / found[1][-1], found[0] / found[0][-1])


@pytest.mark.parametrize("head", ["fresh", "continued"])
def test_head_goes_on_from_the_last_one_where_told_to(head: str) -> None:
    """As the reference code, which has one head for all tasks (Q14)."""
    method = wrapped(mlp(classes=(3, 3)), task=1, head=head)
    method.begin_task(DATA)
    assert torch.equal(method.net.heads[1].weight, method.net.heads[0].weight) == (head == "continued")
    assert torch.equal(method.net.heads[1].bias, method.net.heads[0].bias) == (head == "continued")
    with torch.no_grad():
        method.net.heads[1].weight += 1
    assert not torch.equal(method.net.heads[1].weight, method.net.heads[0].weight)


def test_head_that_cannot_go_on_is_named() -> None:
    with pytest.raises(UserError, match=r"methods\.hat\.head: .* not 3 and 4"):
        wrapped(mlp(classes=(3, 4)), task=1, head="continued").begin_task(DATA)


# The nets with convolutions: counts by hand from the layers, blocks with a way past them, batch normalisation.


@pytest.mark.parametrize(
    ("name", "units"), [("small", 768), ("base", 1920), ("wide", 2752), ("deep", 3776), ("alexnet", 9344)]
)
def test_unit_counts(name: str, units: int) -> None:
    net = build(Model(name=name), (3, 64, 64), generator(0))  # type: ignore[arg-type]
    method = HAT()
    method.net = method.wrap(net)
    assert sum(len(gate.embedding) for gate in method.gates) == units
    layers = [layer for layer in method.net.backbone.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    found = list(wiring(method.net.backbone))
    assert [layer for _, layer, _, _ in found] == layers
    assert [below for _, _, below, _ in found] == [None, *range(len(layers) - 1)]
    assert [behind for _, _, _, behind in found] == list(range(len(layers)))


def test_ways_through_blocks() -> None:
    """Both ways end at the gate behind their sum; the one past the convolutions begins where the block begins."""
    method = HAT()
    method.net = method.wrap(build(Model(name="resnet18"), (3, 32, 32), generator(0)))
    widths = [len(gate.embedding) for gate in method.gates]
    assert widths == [64] * 5 + [128] * 4 + [256] * 4 + [512] * 4
    found = {name: (below, behind) for name, _, below, behind in wiring(method.net.backbone)}
    stages = {name.split(".")[0] for name in found if "downsample" in name}
    assert len(stages) == 3
    block = f"{min(stages)}.0"
    assert found["0.weight".removesuffix(".weight")] == (None, 0)
    assert found[f"{block}.conv1"] == (4, 5)
    assert found[f"{block}.conv2"] == (5, 6)
    assert found[f"{block}.downsample.0"] == (4, 6)
    for name, (below, behind) in found.items():
        weight = method.net.backbone.get_submodule(name).weight
        assert len(weight) == widths[behind]
        assert below is None or weight.shape[1] == widths[below]


@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
@pytest.mark.parametrize("name", NETS)
def test_old_logits_with_batch_norm(name: str, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Units used fully or not at all, differently in every layer: what the second task learns must not be felt.

    Scales, shifts and statistics of batch normalisation all move; the first task answers with its own.
    """
    narrow(monkeypatch)
    ever_better(monkeypatch)
    learner = learner_of("hat", name, weight_decay=0.01, precision=precision)
    method: HAT = learner.method  # type: ignore[assignment]
    learner.open(learner.experiences[0])
    learner.attach(method, "test", 0, 0.1)
    method.begin_task(learner.experiences[0])
    draw = torch.Generator().manual_seed(0)
    x = torch.rand(5, 3, 16, 16, generator=draw)
    for layer, p in method.shared.items():  # nothing is left where it cannot be told from not being used
        p.data.copy_(torch.rand(p.shape, generator=draw) - (0.3 if "weight" in layer else 0.0))
    for gate in method.gates:
        gate.embedding.data.copy_(torch.where(torch.rand(len(gate.embedding), generator=draw) < 0.5, 6.0, -6.0))
        gate.embedding.data[0] = 6.0
    method.net.train()
    for number, dropout in enumerate(module for module in method.net.modules() if hasattr(module, "draw_from")):
        dropout.draw_from(number)  # type: ignore[operator]
    method.net.backbone(10 * x)  # statistics of its own
    method.end_task(learner.experiences[0])
    assert all(set(mask.tolist()) <= {0.0, 1.0} for mask in method.masks_[0])
    own = {key: tensor.clone() for key, tensor in method.norms_[0].items()}
    with torch.no_grad():
        before = method.predict(x, 0)
    assert float(before.std(0).min()) > 0
    learner.open(learner.experiences[1])
    weights = {key: tensor.clone() for key, tensor in method.net.backbone.state_dict().items()}
    learner.train("learn", 0, 0.1, {}, plain=False)
    moved = method.net.backbone.state_dict()
    assert not any(torch.equal(moved[key], weights[key]) for key in own)
    assert any(not torch.equal(moved[key], weights[key]) for key in set(method.shared) - set(own))
    assert same(method.norms_[0], own)
    method.net.eval()
    with torch.no_grad():
        torch.testing.assert_close(method.predict(x, 0), before, atol=1e-5, rtol=1e-5)


def test_each_task_answers_with_its_own_batch_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    narrow(monkeypatch)
    ever_better(monkeypatch)
    learner = learner_of("hat", "resnet")
    learn_tasks(learner, 2)
    method: HAT = learner.method  # type: ignore[assignment]
    first, second = method.norms_
    layers = [name for name, layer in method.net.backbone.named_modules() if isinstance(layer, BatchNorm)]
    assert first.keys() == second.keys() == {f"{name}.{key}" for name in layers for key in NORM}
    assert all(not torch.equal(first[key], second[key]) for key in first)
    assert all(torch.equal(second[key], method.net.backbone.state_dict()[key]) for key in second)
    x = learner.experiences[0].test.x
    with torch.no_grad():
        found = method.predict(x, 0)
        method.norms_ = [second, second]
        assert not torch.equal(method.predict(x, 0), found)


NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def test_without_batch_norm_nothing_is_kept() -> None:
    method = wrapped(mlp(classes=(3, 3)))
    method.begin_task(DATA)
    method.end_task(DATA)
    assert set(method.state()) == {"masks_", "used_"}
