"""A learned model as a file that runs without this project: `python -m flows.export`."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cl import cli
from cl.data.places import prepared
from cl.errors import UserError, count
from cl.params import Params
from cl.register import checked
from flows.deadline import finish
from flows.serving.source import Used, add_options, used

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

    from cl.deployed import Deployed

    Run = Callable[[Tensor], "np.ndarray[Any, Any]"]

TOLERANCE = 1e-4
"""The most by which a probability may differ: other kernels, and in other order, round differently."""
CHECKED = 100
METADATA = "metadata.json"


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    made = cli.parser("flows.export", main.__doc__)
    add_options(made)
    made.add_argument(
        "--to", type=Path, default=Path("exported"), metavar="FOLDER", help="of the files; default: %(default)s"
    )
    made.add_argument("--onnx", action="store_true", help="also as ONNX (pip install 'unforgetting[onnx]')")
    made.add_argument("--each-task", action="store_true", help="a file for each task, which chooses among its classes")
    return made


def main() -> int:
    """Export the champion, or any registered model or checkpoint, with torch.export and as ONNX."""
    given = parser().parse_args()
    if given.onnx and (
        missing := [n for n in ("onnx", "onnxruntime", "onnxscript") if not importlib.util.find_spec(n)]
    ):
        raise UserError(f"--onnx: {', '.join(missing)} not installed; pip install 'unforgetting[onnx]'")
    params = cli.params_of(given)
    import torch

    params = checked(params)
    one = used(params, given)
    method = one.model.method
    if given.onnx and method.exports == "torch":
        raise UserError(f"--onnx: ONNX lacks an operation of {one.model.name}; leave the option out")
    if method.needs_task_id and not given.each_task:
        raise UserError(f"{one.model.name} needs the task of a picture, so one file cannot be for all; add --each-task")
    print(f"export: {one.said}", flush=True)
    given.to.mkdir(parents=True, exist_ok=True)
    out = given.out if given.checkpoint is None else Path(given.checkpoint).resolve().parents[3]
    pictures = test_pictures(params, out, one.model)
    if given.each_task:
        for task, of_task in enumerate(pictures):
            _export(one, task, given.to / f"task-{task}", of_task[:CHECKED], onnx=given.onnx)
    else:
        of_each = -(-CHECKED // len(pictures))
        _export(one, None, given.to / "model", torch.cat([part[:of_each] for part in pictures]), onnx=given.onnx)
    return 0


def test_pictures(params: Params, out: Path, model: Deployed) -> list[Tensor]:
    """The test pictures of each task that the model has learned, (N, C, H, W) uint8.

    Raises `UserError` where the prepared data are not those of the model.
    """
    from cl.data import load

    tasks = load(prepared(params, out, model.facts["seed"])).tasks[: len(model.tasks)]
    if [task.name for task in tasks] != list(model.tasks):
        raise UserError(f"{out / 'prepared'}: has other tasks than the model; give the --out that it was learned in")
    return [task.test.images for task in tasks]


def _export(one: Used, task: int | None, file: Path, pictures: Tensor, *, onnx: bool) -> None:
    """Write the files of one graph, each checked before it appears under its name."""
    import torch

    from cl.exported import described, exported

    graph = exported(one.model, task)
    told = json.dumps(described(one.model, task, one.card), ensure_ascii=False, indent=1)
    probabilities = _ours(one.model, task, pictures)

    def save_torch(part: Path) -> Run:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tensors that are parts of one file; the check sees that all are there
            torch.export.save(graph, part, extra_files={METADATA: told})
        module = torch.export.load(part).module()
        return lambda images: module(images)[0].numpy()

    _checked(file.with_suffix(".pt2"), save_torch, pictures, probabilities)
    if onnx:
        _checked(file.with_suffix(".onnx"), lambda part: _save_onnx(graph, told, part), pictures, probabilities)


def _save_onnx(graph: torch.export.ExportedProgram, told: str, part: Path) -> Run:
    import onnxruntime
    import torch

    from cl.exported import INPUT, OUTPUTS

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own exporter, about itself
        program = torch.onnx.export(
            graph, dynamo=True, verbose=False, input_names=[INPUT], output_names=[*OUTPUTS], dynamic_axes=None
        )
    assert program is not None
    program.model.metadata_props.update({name: _text(value) for name, value in json.loads(told).items()})
    program.save(part)
    session = onnxruntime.InferenceSession(part, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {INPUT: images.numpy()})[0]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _ours(model: Deployed, task: int | None, pictures: Tensor) -> np.ndarray[Any, Any]:
    """The probabilities of the model itself, (N, K)."""
    found = model.outputs(model.split(pictures, task), task)
    return model.probabilities(found.scores, task).numpy()


def _checked(file: Path, save: Callable[[Path], Run], pictures: Tensor, ours: np.ndarray[Any, Any]) -> None:
    """Save under another name, ask what was saved about the pictures, and give it its name if it answers as we do."""
    import numpy as np

    part = file.with_name(f".part.{file.name}")
    try:
        theirs = save(part)(pictures)
        apart = float(np.abs(theirs - ours).max())
        same = int((theirs.argmax(1) == ours.argmax(1)).sum())
        said = (
            f"{count(len(ours), 'test picture')}: the largest difference of a probability is {apart:.1e} "
            f"(tolerance {TOLERANCE:.0e}), the class is the same for {same}"
        )
        if not apart <= TOLERANCE:
            raise UserError(f"{file}: not written, because it does not answer as the model does; {said}")
        os.replace(part, file)
    finally:
        part.unlink(missing_ok=True)
    print(f"export: {file} ({file.stat().st_size / 1e6:.1f} MB); {said}", flush=True)


if __name__ == "__main__":
    finish(cli.guarded(main))
