"""Batch normalisation, and its state as tensors that a method can keep for each task."""

from __future__ import annotations

from torch import Tensor, nn


class BatchNorm(nn.BatchNorm2d):
    """Torch's own; outside training it takes reduced precision only through float32.

    Per-sample gradients (vmap) fail where the input is bfloat16 and the statistics are float32.
    """

    def forward(self, x: Tensor) -> Tensor:
        """x (N, C, H, W), of the same shape."""
        if self.training:
            return super().forward(x)
        return super().forward(x.float()).to(x.dtype)


def norm_layers(backbone: nn.Module) -> dict[str, BatchNorm]:
    """The batch-normalisation layers by name."""
    return {name: layer for name, layer in backbone.named_modules() if isinstance(layer, BatchNorm)}


def norms(backbone: nn.Module) -> dict[str, Tensor]:
    """Copies of all scales, shifts and running statistics, by name; empty where there is no batch normalisation.

    A method that isolates parameters keeps them for each task and puts them back in for prediction: a statistic that
    runs on, or a shift that goes on learning, would change the answers to old tasks whatever else is frozen.
    """
    return {
        f"{name}.{key}": tensor.detach().clone()
        for name, layer in norm_layers(backbone).items()
        for key, tensor in layer.state_dict().items()
    }
