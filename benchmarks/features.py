"""How fast the stage makes features, compared with a hand-written loop: `python -m benchmarks.features`.

Each round makes the features of the same pictures twice. The stage goes from prepared pictures to files with checksums.
The loop reads the same array, calls the backbone batch by batch with as many threads as there are cores, and keeps the
vectors in memory. The command prints both rates and their ratio.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from cl import cli
from cl.data.features import extract
from cl.data.places import pictures, side
from cl.data.prepare import prepare, read_manifest
from cl.machine import keeping_memory, processors
from cl.nets.pretrained import pretrained
from cl.params import Params

BATCHES = (16, 64)
"""Batch sizes of the hand-written loop; the faster one counts."""
CLASSES = 2


def draw(root: Path, count: int, size: int) -> Path:
    """Write `count` pictures of noise, which take as long as any others, as a task of two classes."""
    numbers = np.random.default_rng(0)
    for index in range(count):
        folder = root / "task" / f"class-{index % CLASSES}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(numbers.integers(0, 256, (size, size, 3), np.uint8)).save(folder / f"{index:05d}.bmp")
    return root


def by_stage(params: Params, out: Path) -> float:
    """Seconds of the stage, from the start of the pass to the finished folder."""
    started = time.monotonic()
    extract(params, out, lambda line: None)
    return time.monotonic() - started


def by_hand(params: Params, out: Path, batch: int) -> float:
    """Seconds of a loop over the same arrays."""
    net = pretrained(params.model, side(params))
    torch.set_num_threads(processors())
    started, found = time.monotonic(), []
    for task in read_manifest(out / "prepared")["tasks"]:
        for split in task["splits"].values():
            images = torch.from_numpy(np.load(out / "prepared" / split["images"]["path"], allow_pickle=False))
            with torch.inference_mode(), keeping_memory():
                for part in images.split(batch):
                    x = ((part.float() - net.mean) / net.deviation).contiguous(memory_format=torch.channels_last)
                    found.append(net.net(x))
    assert len(torch.cat(found)) > 0
    return time.monotonic() - started


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.features", description=(__doc__ or "").splitlines()[0])
    made.add_argument("--backbone", default="efficientnet-lite0")
    made.add_argument("--size", type=cli.positive, default=224, help="side of the pictures in pixels; default: 224")
    made.add_argument("--pictures", type=cli.positive, default=600)
    made.add_argument("--rounds", type=cli.positive, default=3)
    return made


def main() -> int:
    """Compare both in rounds, and print the ratios."""
    given = parser().parse_args()
    os.environ.pop("OMP_NUM_THREADS", None)
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        root = draw(Path(folder, "pictures"), given.pictures, given.size)
        tree = {
            "benchmark": {"name": "folder", "path": str(root), "image_size": given.size},
            "model": {"name": "features", "backbone": given.backbone},
            "methods": {"finetune": {}},
        }
        params = Params.model_validate(tree)
        for number in range(given.rounds):
            out = Path(folder, str(number))
            prepare(pictures(params), Path("data"), out / "prepared", lambda line: None)
            hand = given.pictures / min(by_hand(params, out, batch) for batch in BATCHES)
            stage = given.pictures / by_stage(params, out)
            ratios.append(stage / hand)
            print(f"stage {stage:,.1f} pictures/s, by hand {hand:,.1f}: {ratios[-1]:.2f}x", flush=True)
    print(
        f"median {statistics.median(ratios):.2f}x of the backbone by hand; {given.backbone}, {given.size} pixels, "
        f"{processors()} cores, torch {torch.__version__}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(cli.guarded(main))
