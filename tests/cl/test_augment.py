"""Random crops and flips, against a loop over single images."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cl.data.augment import Augment, middle
from cl.data.prepare import Format
from cl.data.task import Normalise, Sequence, Split, seen_shape
from cl.errors import UserError
from cl.learner import Learner
from cl.params import Augmentation
from cl.rng import generator
from tests.cl.small import CPU, OFF, dark_and_bright, learn_tasks, params_for, same


def pictures(count: int = 300, side: int = 6) -> Tensor:
    """Every pixel of every picture has a value of its own, but for the number of values there are."""
    return (torch.arange(count * 3 * side * side) % 251 + 1).to(torch.uint8).reshape(count, 3, side, side)


def augmented(x: Tensor, **settings: Any) -> Tensor:
    return Augment(Augmentation(**settings), generator("test"))(x)


def test_a_flip_turns_half_of_the_images_and_nothing_else() -> None:
    x = pictures()
    found = augmented(x, flip=True)
    turned = [torch.equal(a, b.flip(2)) for a, b in zip(found, x, strict=True)]
    same = [torch.equal(a, b) for a, b in zip(found, x, strict=True)]
    assert all(a != b for a, b in zip(turned, same, strict=True))
    assert 120 < sum(turned) < 180
    assert found.dtype == torch.uint8


@pytest.mark.parametrize(("padding", "crop"), [(2, None), (0, 4), (1, 5), (3, 6)])
def test_a_crop_is_a_window_of_the_padded_image_and_every_window_comes_up(padding: int, crop: int | None) -> None:
    x = pictures()
    side = crop or 6
    found = augmented(x, padding=padding, crop=crop)
    assert found.shape == (300, 3, side, side)
    padded = torch.from_numpy(np.pad(x.numpy(), [(0, 0), (0, 0), (padding, padding), (padding, padding)]))
    places = 6 + 2 * padding - side + 1
    seen = set()
    for image, whole in zip(found, padded, strict=True):
        windows = {(i, j): whole[:, i : i + side, j : j + side] for i in range(places) for j in range(places)}
        (at,) = [place for place, window in windows.items() if torch.equal(window, image)]
        seen.add(at)
    assert len(seen) == places**2


def test_the_draw_decides() -> None:
    x = pictures()
    settings = Augmentation(flip=True, padding=2)
    one, again, other = (Augment(settings, generator(key))(x) for key in ("a", "a", "b"))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_outside_training_the_middle_is_taken() -> None:
    normalise = Normalise(Format(1.0, (0.0,) * 3, (1.0,) * 3), CPU, 4)
    x = pictures(5)
    assert torch.equal(normalise(x), x[:, :, 1:5, 1:5].float())
    assert torch.equal(middle(x, 5), x[:, :, 0:5, 0:5])
    assert seen_shape([3, 6, 6], 4) == (3, 4, 4)
    assert seen_shape([3, 6, 6], None) == (3, 6, 6)
    with pytest.raises(UserError, match=r"training.augmentation.crop: 8 is more than the 6x6"):
        seen_shape([3, 6, 6], 8)


def test_only_training_sees_augmented_images_and_each_epoch_others() -> None:
    seen: list[Tensor] = []
    x = pictures(20)
    split = Split(lambda: (x, torch.zeros(20, dtype=torch.int64), 0), Normalise(Format(1.0, (0.0,), (1.0,)), CPU))
    for key in (0, 1):
        augment = Augment(Augmentation(flip=True), generator(key))
        seen.append(torch.cat([x for x, _, _ in split.batches(7, torch.arange(20), augment)]))
    plain = torch.cat([x for x, _, _ in split.batches(7)])
    assert torch.equal(plain, x.float())
    assert not torch.equal(seen[0], seen[1])
    assert all(torch.equal(a.sort(-1).values, plain.sort(-1).values) for a in seen)


def learned(method: str, **training: Any) -> dict[str, Tensor]:
    params = params_for(method, {}, selection=OFF, model={"name": "small"}, training={"epochs": 2, **training})
    tasks = Sequence("toy", (1, 16, 16), (dark_and_bright(0, 16), dark_and_bright(1, 16)))
    learner = Learner(params, method, 0, tasks, CPU)
    learn_tasks(learner, len(learner.experiences))
    return {name: tensor.clone() for name, tensor in learner.method.net.state_dict().items()}


@pytest.mark.parametrize("method", ["finetune", "r_fm", "packnet", "joint"])
def test_a_training_is_augmented_and_repeats_to_the_bit(method: str) -> None:
    flips = {"augmentation": {"flip": True, "padding": 1}}
    first = learned(method, **flips)
    assert same(first, learned(method, **flips))
    assert not same(first, learned(method))


def test_joint_may_flip_alone() -> None:
    from cl.register import make

    params = params_for("joint", {"flip": True}, selection=OFF)
    method = make("joint", {"flip": True})
    method.training = params.training
    assert method.augmentation.flip
    other = make("joint", {})
    other.training = params.training
    assert not other.augmentation.active
