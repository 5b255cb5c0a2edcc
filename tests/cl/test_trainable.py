"""What can be set on a trainable, and what is forgotten between trials."""

from __future__ import annotations

import pytest
from torch import nn

from cl.methods.finetune import Finetune
from cl.trainable import Trainable
from tests.cl.small import attach


class Coder(Trainable):
    """With a setting of its own."""

    weight: float

    def __init__(self, weight: float) -> None:
        self.weight = weight


def test_settings_have_to_be_declared() -> None:
    coder = Coder(0.5)
    for name in ("size", "patience", "judged_by"):
        with pytest.raises(AttributeError, match=f"Coder.{name}: .* end in '_'"):
            setattr(coder, name, 1)
    assert coder.weight == 0.5
    assert coder.state() == {}


def test_a_method_has_no_settings_but_its_knobs() -> None:
    class Counting(Finetune):
        count: int = 0

    with pytest.raises(AttributeError, match="count"):
        Counting().count = 1


def test_a_trial_begins_with_state_and_settings_alone() -> None:
    coder = Coder(0.5)
    coder.learned_, coder._prepared = 1, 2  # type: ignore[attr-defined]
    attach(coder, nn.Linear(1, 1))
    assert not hasattr(coder, "_prepared")
    assert (coder.weight, coder.state()) == (0.5, {"learned_": 1})
