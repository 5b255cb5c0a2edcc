"""Weights from outside: torchvision's for ImageNet, or a file of them. No pickle is ever executed."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from cl.errors import UserError
from cl.params import Model

HEADS = {"alexnet": "classifier.6.", "resnet18": "fc."}
"""By network: what the names of its head's tensors begin with. They are left out: every task has a head of its own."""
OPTIONAL = "num_batches_tracked"
"""Older files have no such counters, and nothing here reads them."""
SHOWN = 5


def load_weights(backbone: nn.Module, model: Model) -> None:
    """Put the weights that `model.weights` names, if any, into the backbone that `build` made of this model.

    That is "imagenet", or the path of a file (.safetensors, or a state dict that torch saved), its tensors by
    torchvision's names. Raises `UserError` where they cannot be read, naming the tensors that are missing,
    unknown or of another shape.
    """
    name, source = model.name, model.weights
    if name == "features":
        from cl.nets.pretrained import load_backbone

        load_backbone(backbone, model)
    if name == "features" or source is None:
        return
    given = imagenet(name) if source == "imagenet" else read(Path(source))
    given = {key: tensor for key, tensor in given.items() if not key.startswith(HEADS[name])}
    put(backbone, given, source, f"{name} for images of this size")


def put(network: nn.Module, given: Mapping[str, Tensor], source: str, what: str) -> None:
    """Put these tensors into the network; raises `UserError` where they are not those of `what`, naming the faults."""
    wanted = network.state_dict()
    missing = [key for key in wanted if key not in given and not key.endswith(OPTIONAL)]
    unknown = [key for key in given if key not in wanted]
    shapes = [
        f"{key} {tuple(given[key].shape)} instead of {tuple(tensor.shape)}"
        for key, tensor in wanted.items()
        if key in given and given[key].shape != tensor.shape
    ]
    faults = [
        f"{what}: {', '.join(names[:SHOWN])}{f' and {len(names) - SHOWN} more' if len(names) > SHOWN else ''}"
        for what, names in (("missing", missing), ("unknown", unknown), ("of another shape", shapes))
        if names
    ]
    if faults:
        raise UserError(f"model.weights: {source} does not hold the weights of {what}; {'; '.join(faults)}")
    network.load_state_dict(given, strict=False)


def imagenet(name: str) -> Mapping[str, Tensor]:
    """Torchvision's weights of this network, downloaded once; raises `UserError` where they cannot be had."""
    from torchvision.models import get_model_weights  # takes a second to import, and is needed nowhere else

    weights: Any = get_model_weights(name).DEFAULT
    try:
        with contextlib.redirect_stdout(sys.stderr):  # a run's own output is its events, and torch talks into it
            state_dict: Mapping[str, Tensor] = weights.get_state_dict(
                progress=False, check_hash=True, weights_only=True
            )
    except (OSError, HTTPException, RuntimeError, UnpicklingError) as error:  # RuntimeError: its hash is not the file's
        raise UserError(
            f"model.weights: those of {name} cannot be had ({error}); fetch {weights.url} where the network allows, "
            "and set model.weights to the path of that file"
        ) from None
    return state_dict


def read(path: Path) -> Mapping[str, Tensor]:
    """The state dict in a file (.safetensors, or saved by torch); raises `UserError` where there is none."""
    try:
        path.open("rb").close()
    except OSError as error:
        raise UserError(
            f"model.weights: {path}: cannot be read ({error.strerror}); give the path of a .pth or .safetensors file, "
            "or for alexnet and resnet18 'imagenet'"
        ) from None
    try:
        if path.suffix == ".safetensors":
            state_dict: Any = load_file(path)
        else:
            with warnings.catch_warnings(action="ignore"):  # of a pickle protocol, where it is no pickle at all
                state_dict = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's reader raises whatever a wrong byte leads it to, such as IndexError
        raise UserError(
            f"model.weights: {path}: damaged, or not a file of weights alone; save it with torch.save("
            "model.state_dict(), path)"
        ) from error
    if not isinstance(state_dict, Mapping) or not all(isinstance(tensor, Tensor) for tensor in state_dict.values()):
        raise UserError(f"model.weights: {path}: holds more than tensors by name; save model.state_dict() alone")
    return state_dict
