"""Finetuning: train on each task in turn and do nothing against forgetting. The lower bound."""

from __future__ import annotations

from cl.method import ALL, Method


class Finetune(Method):
    """Plain stochastic gradient descent on the current task; every other method is compared with it."""

    selection = "learning-rate"
    scenarios = ALL
    online = True
