"""Where the data of a run are: prepared once for all seeds or, if `benchmark.seed` is `run`, once for each seed.

All seeds share `<out>/prepared` and `<out>/features`. A benchmark that each seed draws is in the folders `seed-<s>` of
these two.
"""

from __future__ import annotations

from pathlib import Path

from cl import backbones
from cl.data.prepare import Say, benchmark_file, check_prepared, prepare, remove_prepared
from cl.params import Benchmark, Params


def draws(params: Params) -> list[int]:
    """The seeds that have data of their own; the first one alone where all share a benchmark."""
    return params.seeds if params.benchmark.drawn else params.seeds[:1]


def of_seed(params: Params, seed: int) -> Params:
    """The params with the number that draws the benchmark of this seed."""
    if not params.benchmark.drawn:
        return params
    return params.model_copy(update={"benchmark": params.benchmark.model_copy(update={"seed": seed})})


def prepared(params: Params, out: Path, seed: int) -> Path:
    """The folder of the prepared pictures that a run of this seed sees."""
    return _room(params, out / "prepared", seed)


def place(params: Params, out: Path, seed: int) -> Path:
    """The folder of what a run of this seed learns from: features or pictures."""
    return _room(params, out / ("features" if params.model.on_features else "prepared"), seed)


def _room(params: Params, folder: Path, seed: int) -> Path:
    return folder / f"seed-{seed}" if params.benchmark.drawn else folder


def side(params: Params) -> int:
    """The side in pixels to which pictures are scaled for the backbone."""
    return params.benchmark.image_size or backbones.backbone(params.model.backbone).image_size


def pictures(params: Params) -> Benchmark:
    """The benchmark as it is prepared for these params (those `of_seed`).

    For a frozen backbone, image files are prepared at the size that it takes, or at the benchmark's largest size if
    that is smaller. Arrays keep their size, and the pass scales them up, so they need no more disk space.
    """
    options = params.benchmark
    if params.model.name != "features":
        return options
    module, size = benchmark_file(options.name), side(params)
    if params.model.frozen and "on_bad_image" in module.OPTIONS:
        size = min(size, getattr(module, "LARGEST", size))
    elif params.model.frozen:
        return options.model_copy(update={"image_size": None})
    return options.model_copy(update={"image_size": size})


def prepare_all(params: Params, raw: Path, out: Path, say: Say = print) -> None:
    """Prepare the benchmark of each seed under `out`, unless it is there already; raises `UserError` as `prepare`."""
    for seed in draws(params):
        prepare(pictures(of_seed(params, seed)), raw, prepared(params, out, seed), say)
    if params.benchmark.drawn:
        remove_prepared(out / "prepared", shared=True)


def check_all(params: Params, out: Path) -> None:
    """Raise `UserError` if a seed has nothing readable prepared, or if the scenario cannot have such tasks."""
    for seed in draws(params):
        check_prepared(params, prepared(params, out, seed))
