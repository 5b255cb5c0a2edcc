"""Scikit-learn's handwritten digits: 1797 real 8x8 images of 17 grey levels (Alpaydin and Kaynak, UCI, 1998)."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from cl import embedded
from cl.data.prepare import Format, Images, Labels, Say
from cl.data.subsets import first_of_each, stratified
from cl.errors import UserError
from cl.params import Benchmark

FORMAT = Format(scale=16.0, mean=(0.0,), deviation=(1.0,))
OPTIONS = frozenset({"train_per_class", "validation_per_class", "validation_share", "image_size"})
"""image_size is among them only to be refused with a remedy."""
FILE = "digits/digits.csv.gz"
SHA256 = "09f66e6debdee2cd2b5ae59e0d6abbb73fc2b0e0185d2e1957e9ebb51e23aa22"
TEST_FRACTION = 0.2
VALIDATION_FRACTION = 0.2
"""Of what is not test, as in the survey."""


def fingerprint(options: Benchmark, raw: Path, say: Say | None = None) -> str:
    """The hash of the one raw file; raises `UserError` where it is missing or another, and for a size to scale to."""
    del say
    if options.image_size is not None:
        raise UserError(
            f"benchmark.image_size: the digits of {options.name} are 8x8 and cannot be scaled; leave it out and "
            "take model.name=mlp, or take split-mnist"
        )
    path = file_in(raw)
    if not path.exists():
        raise UserError(f"{path}: not there; fetch the embedded data, in the checkout, with: {_fetching()}")
    actual = hashlib.sha256(path.read_bytes()).hexdigest()
    if actual != SHA256:
        raise UserError(
            f"{path}: damaged (sha256 {actual[:12]}..., not {SHA256[:12]}...); run dvc checkout --force data.dvc"
        )
    return actual


def _fetching() -> str:
    """The command; outside git, as in an unpacked archive, DVC has to be told that it can do without."""
    here = Path.cwd()
    in_git = any((folder / ".git").exists() for folder in (here, *here.parents))
    return ("" if in_git else "dvc config --local core.no_scm true; ") + "dvc pull -r embedded data.dvc"


def file_in(raw: Path) -> Path:
    """The one raw file: below the folder of raw data or, where it is not there, as it came with the package."""
    ours = embedded.root() / "data" / FILE
    return ours if ours.exists() and not (raw / FILE).exists() else raw / FILE


def read(raw: Path) -> tuple[Images, Labels]:
    """Images (1797, 1, 8, 8) uint8 in 0..16 and labels (1797,) in 0..9."""
    fingerprint(Benchmark(), raw)
    table = np.loadtxt(file_in(raw), delimiter=",", dtype=np.int64)
    return table[:, :-1].astype(np.uint8).reshape(-1, 1, 8, 8), table[:, -1]


def split(images: Images, labels: Labels, options: Benchmark) -> dict[str, tuple[Images, Labels]]:
    """Train, validation and test, stratified, drawn from the benchmark's seed."""
    rest, test = stratified(labels, TEST_FRACTION, "digits", options.seed, "test")
    share = options.validation_share or VALIDATION_FRACTION
    train, validation = stratified(labels[rest], share, "digits", options.seed, "validation")
    parts = {"train": rest[train], "validation": rest[validation], "test": test}
    parts["train"] = first_of_each(parts["train"], labels, options.train_per_class)
    parts["validation"] = first_of_each(parts["validation"], labels, options.validation_per_class)
    return {name: (images[index], labels[index]) for name, index in parts.items()}
