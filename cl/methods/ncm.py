"""Nearest class mean: predicts the class whose mean feature vector is nearest.

With cosines this is SimpleCIL: Zhou, Cai, Ye, Zhan and Liu, Revisiting class-incremental learning with pre-trained
models: generalizability and adaptivity are all you need, arXiv 2303.07338, 2023.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cl.closed_form import ClassMeans
from cl.knob import knob
from cl.memory import picked
from cl.ops import distances


class NCM(ClassMeans):
    """argmax_k cos(z, mu_k), or argmin_k |z - mu_k|."""

    metric: str = knob("cosine", choices=("cosine", "euclidean"), help="measure of which mean is nearest")

    def solve(self) -> Tensor:
        """The class means (K, F), scaled to length 1 for cosines."""
        means = self.means()
        return F.normalize(means, dim=1) if self.metric == "cosine" else means

    def scores(self, z: Tensor, classes: list[int]) -> Tensor:
        """The cosines, or minus the distances."""
        means = picked(self.solved, torch.tensor(classes))
        return F.normalize(z, dim=1) @ means.T if self.metric == "cosine" else -distances(z, means)
