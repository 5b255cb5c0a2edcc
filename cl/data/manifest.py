"""What the manifest of a prepared benchmark has to contain, whoever wrote it."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cl.files import SEAL, unsealed

Size = Annotated[int, Field(ge=1, le=2**53)]
Name = Annotated[str, Field(min_length=1)]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Shape = Annotated[list[Size], Field(min_length=3, max_length=3)]


class _Checked(BaseModel):
    model_config = ConfigDict(strict=True)  # a benchmark's notes may stand besides


class _File(_Checked):
    path: Name
    bytes: Size
    sha256: Digest


class _Split(_Checked):
    samples: Size
    images: _File
    labels: _File


class _Splits(_Checked):
    train: _Split
    validation: _Split
    test: _Split


class _Task(_Checked):
    name: Name
    classes: Annotated[list[Name], Field(min_length=1)]
    input_shape: Shape
    digest: Digest
    splits: _Splits


class _Manifest(_Checked):
    benchmark: Name
    key: Digest
    options: dict[str, Any]
    input_shape: Shape
    scale: Positive
    mean: Annotated[list[Finite], Field(min_length=1)]
    deviation: Annotated[list[Positive], Field(min_length=1)]
    tasks: Annotated[list[_Task], Field(min_length=1)]


def checked(manifest: dict[str, Any]) -> dict[str, Any]:
    """The manifest without its seal; raises `ValueError` where it was altered, or is not what a manifest has to be.

    A manifest that an earlier version wrote has no seal; only its fields are checked.
    """
    content = unsealed(manifest) if SEAL in manifest else manifest
    if content is None:
        raise ValueError("altered since it was written")
    try:
        _Manifest.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    shapes = {tuple(task["input_shape"]) for task in content["tasks"]}
    if shapes != {tuple(content["input_shape"])} or content["options"].get("name") != content["benchmark"]:
        raise ValueError("its parts contradict each other")
    return content
