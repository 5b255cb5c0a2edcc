"""Random crops and flips of a batch of images, in one gather."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from cl.gpu import sent
from cl.params import Augmentation


@dataclass(frozen=True)
class Augment:
    """Random crops and flips as the settings say, drawn from a generator (of the CPU)."""

    settings: Augmentation
    draw: torch.Generator

    def __call__(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) of any type, and (N, C, S, S) of that type; S the crop's side, else H = W."""
        settings = self.settings
        count, device = len(images), images.device
        padded = F.pad(images, [settings.padding] * 4)  # with black, as torchvision does
        height, width = padded.shape[2:]
        side = settings.crop or images.shape[2]
        top, left = (
            sent(torch.randint(length - side + 1, (count, 1), generator=self.draw), device)
            for length in (height, width)
        )
        span = torch.arange(side, device=device)
        rows, columns = top + span, left + span
        if settings.flip:
            turned = sent(torch.randint(2, (count, 1), generator=self.draw), device) == 1
            columns = torch.where(turned, columns.flip(1), columns)
        each = torch.arange(count, device=device).view(-1, 1, 1)
        # Indices around a slice put their dimensions first: (N, S, S, C).
        return padded[each, :, rows.unsqueeze(2), columns.unsqueeze(1)].permute(0, 3, 1, 2)


def middle(images: Tensor, side: int) -> Tensor:
    """The middle square (N, C, side, side) of images (N, C, H, W)."""
    height, width = images.shape[2:]
    top, left = (height - side) // 2, (width - side) // 2
    return images[:, :, top : top + side, left : left + side]
