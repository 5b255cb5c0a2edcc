"""How fast images are prepared, beside bare decoding: `python -m benchmarks.prepare PATH [--rounds N]`.

PATH is Tiny ImageNet, packed or not. Each round prepares all its tasks, and then does nothing but read and decode the
same files with Pillow in as many processes as there are cores. Prints both rates, their ratio, and the peak of memory.
"""

from __future__ import annotations

import argparse
import io
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

from cl import cli
from cl.data.prepare import prepare, read_manifest
from cl.data.source import source
from cl.errors import UserError
from cl.machine import processors
from cl.params import Benchmark
from cl.paths import option


def decode(root: Path, part: int, parts: int) -> None:
    """Read and decode every `parts`-th picture, from `part` on."""
    files = source(root)
    for name in [name for name in files.names() if name.endswith(".JPEG")][part::parts]:
        Image.open(io.BytesIO(files.read(name))).convert("RGB").load()


def bare(root: Path) -> float:
    """Seconds to decode all pictures in as many processes as there are cores."""
    cores = processors()
    command = [sys.executable, "-m", "benchmarks.prepare", str(root), "--decode"]
    started = time.monotonic()
    running = [subprocess.Popen([*command, str(part), str(cores)]) for part in range(cores)]
    codes = [process.wait() for process in running]
    if any(codes):
        raise UserError(f"{root}: could not be decoded; the lines above say why")
    return time.monotonic() - started


def prepared(root: Path, tasks: int) -> tuple[float, int]:
    """Seconds to prepare the tasks, and how many images these have."""
    with tempfile.TemporaryDirectory(dir=".") as folder:
        started = time.monotonic()
        prepare(
            Benchmark(name="tiny-imagenet", path=str(root), tasks=tasks),
            Path("data"),
            Path(folder, "p"),
            lambda _: None,
        )
        seconds = time.monotonic() - started
        entries = read_manifest(Path(folder, "p"))["tasks"]
    return seconds, sum(split["samples"] for entry in entries for split in entry["splits"].values())


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.prepare", description=(__doc__ or "").splitlines()[0])
    made.add_argument("path", type=option("PATH"), help="tiny-imagenet-200.zip, or the folder that was in it")
    made.add_argument("--rounds", type=cli.positive, default=3)
    made.add_argument(
        "--decode", type=int, nargs=2, metavar=("PART", "PARTS"), help="only this part, without preparing"
    )
    return made


def main() -> int:
    """Compare in rounds."""
    given = parser().parse_args()
    if given.decode:
        if not 0 <= given.decode[0] < given.decode[1]:
            parser().error("--decode: PART is from 0 to PARTS - 1")
        decode(given.path, *given.decode)
        return 0
    pictures = sum(name.endswith(".JPEG") for name in source(given.path).names())
    tasks = pictures // (550 * 20)
    if not tasks:
        raise UserError(f"{given.path}: is not Tiny ImageNet (it holds {pictures} pictures named .JPEG)")
    ratios = []
    for _ in range(given.rounds):
        seconds, images = prepared(given.path, tasks)
        alone = bare(given.path)
        ratios.append((images / seconds) / (pictures / alone))
        print(
            f"prepared {images / seconds:,.0f} images/s, decoded {pictures / alone:,.0f}: {ratios[-1]:.2f}x", flush=True
        )
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 2**10
    print(f"median {statistics.median(ratios):.2f}x of bare decoding; largest process {peak:,.0f} MiB")
    return 0


if __name__ == "__main__":
    sys.exit(cli.guarded(main))
