"""Networks: the counts of the fact sheet, section 6, and heads, section 10.13."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cl.errors import UserError
from cl.nets import build
from cl.params import Model, names_in
from cl.rng import generator
from tests.cl.small import mlp


@pytest.mark.parametrize(
    ("name", "convolutions", "features", "total", "inputs", "head"),
    [
        ("small", 6, 334_016, 612_800, 2048, 2_580),
        ("base", 6, 1_145_408, 3_505_728, 4096, 10_260),
        ("wide", 6, 4_500_864, 8_958_336, 8192, 10_260),
        ("deep", 19, 4_280_704, 6_641_024, 4096, 10_260),
    ],
)
def test_survey_counts(name: str, convolutions: int, features: int, total: int, inputs: int, head: int) -> None:
    net = build(Model(name=name), (3, 64, 64), generator(0, "network"))  # type: ignore[arg-type]
    layers = [layer for layer in net.backbone if isinstance(layer, nn.Conv2d)]
    linear = [layer for layer in net.backbone if isinstance(layer, nn.Linear)]
    assert len(layers) == convolutions
    assert sum(p.numel() for layer in layers for p in layer.parameters()) == features
    assert sum(p.numel() for p in net.parameters()) == total
    assert linear[0].in_features == inputs
    net.add_head(20, generator(0, "head"))
    assert sum(p.numel() for p in net.heads.parameters()) == head
    with torch.no_grad():
        assert net(torch.zeros(2, 3, 64, 64), 0).shape == (2, 20)


def test_mlp() -> None:
    net = build(Model(hidden=[7, 5]), (1, 8, 8), generator(0, "network"))
    assert [tuple(p.shape) for p in net.parameters()] == [(7, 64), (7,), (5, 7), (5,)]
    assert net.feature_size == 5
    assert set(net.shared) == {"1.weight", "1.bias", "3.weight", "3.bias"}


@pytest.mark.parametrize("name", ["mlp", "small"])
def test_weights_follow_from_the_generator(name: str) -> None:
    def weights(seed: int) -> list[float]:
        torch.manual_seed(torch.randint(9999, (1,)).item())
        net = build(Model(name=name), (3, 16, 16), generator(seed, "network"))  # type: ignore[arg-type]
        net.add_head(4, generator(seed, "head", 0))
        parameters = torch.cat([p.detach().flatten() for p in net.parameters()])
        assert bool(torch.isfinite(parameters).all())
        return parameters.tolist()  # type: ignore[no-any-return]

    assert weights(0) == weights(0)
    assert weights(0) != weights(1)


def test_initialisation_of_the_vgg_nets() -> None:
    net = build(Model(name="small"), (3, 32, 32), generator(0, "network"))
    for layer in net.backbone:
        if isinstance(layer, nn.Conv2d):
            assert float(layer.weight.detach().std()) == pytest.approx((2 / (layer.out_channels * 9)) ** 0.5, rel=0.1)
        elif isinstance(layer, nn.Linear):
            assert float(layer.weight.detach().std()) == pytest.approx(0.01, rel=0.1)
        else:
            continue
        assert not bool(layer.bias.any())


def test_images_too_small_are_named() -> None:
    with pytest.raises(UserError, match=r"model\.name.*small.*16x16.*benchmark\.image_size"):
        build(Model(name="small"), (1, 8, 8), generator(0))
    build(Model(name="small"), (1, 16, 16), generator(0))


# Heads.


def test_forms_of_logits() -> None:
    net = mlp(classes=(3, 2, 4))
    x = torch.rand(6, 4)
    wide = net(x)
    assert wide.shape == (6, 9)
    for t, part in enumerate(wide.split([3, 2, 4], 1)):
        torch.testing.assert_close(net(x, t), part)
    t = torch.tensor([0, 1, 2, 2, 1, 0])
    masked = net(x, t)
    for row, of_task in enumerate(t.tolist()):
        start, stop = [(0, 3), (3, 5), (5, 9)][of_task]
        assert torch.equal(masked[row, start:stop], wide[row, start:stop])
        outside = torch.cat([masked[row, :start], masked[row, stop:]])
        assert bool((outside == -torch.inf).all())
    assert net.column(torch.tensor([2, 1, 0, 3]), torch.tensor([0, 1, 2, 2])).tolist() == [2, 4, 5, 8]
    assert net.column(torch.tensor([1, 3]), 2).tolist() == [6, 8]


def test_other_heads_get_no_gradient() -> None:
    net = mlp(classes=(3, 2))
    F.cross_entropy(net(torch.rand(6, 4), torch.tensor([1] * 6)), torch.tensor([3, 4] * 3)).backward()
    assert not bool(net.heads[0].weight.grad.any())
    assert bool(net.heads[1].weight.grad.any())
    net.zero_grad()
    F.cross_entropy(net(torch.rand(6, 4), 1), torch.tensor([0, 1] * 3)).backward()
    assert net.heads[0].weight.grad is None


def test_new_head_leaves_the_others_alone_and_is_within_its_bound() -> None:
    net = mlp(units=100, classes=(3,))
    before = net.heads[0].weight.detach().clone()
    net.add_head(50, generator(0, "head", 1))
    assert torch.equal(net.heads[0].weight, before)
    assert net.classes() == [3, 50]
    size = torch.cat([p.detach().flatten().abs() for p in net.heads[1].parameters()])
    assert 0.099 < float(size.max()) <= 0.1


def test_every_model_of_the_schema_can_be_built() -> None:
    assert "build" in names_in("nets")
    names = Model.model_fields["name"].annotation.__args__  # type: ignore[union-attr]
    for name in names:
        build(Model(name=name), (1, 32, 32), generator(0))
