"""A learned model as a graph of tensor operations: pictures in, probabilities out, without this project."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from cl.deployed import Deployed, asked
from cl.errors import UserError
from cl.nets.pretrained import as_long

INPUT, OUTPUTS = "images", ("probabilities", "nearness")


class Exportable(nn.Module):
    """Pictures (N, C, H, W) uint8 -> probabilities (N, K) and nearness (N,), float32.

    It scales and normalises the pictures, and asks the model as of one task, or without one. To decode a file and to
    scale it to H x W is not part of it.
    """

    def __init__(self, model: Deployed, task: int | None) -> None:
        super().__init__()
        self.model, self.task = model, task
        self.net, self.backbone = model.method.net, model.features
        self.requires_grad_(False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The model's answer."""
        model = self.model
        if self.backbone is not None:
            # Not the backbone's own `forward`, which takes a few pictures at a time, and so has to know their number.
            x = as_long(self.backbone.net(self.backbone.seen(images)).float())[:, :, None, None]
        else:
            x = model.normalise(images)
        scores = model.method.predict(x, self.task)
        return model.probabilities(scores, self.task).float(), model.nearness(x, scores, self.task).float()


def exported(model: Deployed, task: int | None) -> torch.export.ExportedProgram:
    """The graph, for any number of pictures. Raises `UserError` where the method's inference is none (`exports`)."""
    if task is None and model.method.exports == "by-task":
        raise UserError(
            f"{model.name}: without the task, what it computes for a picture depends on the picture, so no graph says "
            "it; export it for each task (--each-task)"
        )
    module = Exportable(model, task).eval()
    example = torch.zeros(2, *model.shape, dtype=torch.uint8)
    with torch.no_grad():
        module(example)  # what a method works out once, it works out here, with numbers
        return torch.export.export(module, (example,), dynamic_shapes=({0: torch.export.Dim("N")},), strict=False)


def described(model: Deployed, task: int | None, card: str) -> dict[str, Any]:
    """What a user of the file has to know, for its metadata."""
    calibration = model.calibration
    return {
        "method": model.name,
        "task": None if task is None else list(model.tasks)[task],
        "classes": [column.name for column in model.columns(task)],
        "input": {"name": INPUT, "type": "uint8", "shape": ["N", *model.shape], "largest": model.scale},
        "outputs": list(OUTPUTS),
        "pictures": "the upright middle square, scaled to the height and width (bilinear, antialiased)",
        "temperature": None if calibration is None else calibration.temperature(asked(task)),
        "least_nearness": None if calibration is None else calibration.least(asked(task)),
        "card": card,
    }
