"""What is kept of finished runs in `reproduction/`: their results and costs, and where they came from.

A run is three small files below `reproduction/<folder>/results/<method>/`: `seed-0.json` and `seed-0.cost.json` as the
run published them, and `seed-0.origin.json`, which is sealed and has their SHA-256, the settings of the run, the digest
of its data and the commit whose code it ran. So a table can be packed run by run, on several branches.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from cl.data.places import of_seed
from cl.data.prepare import digest, read_manifest
from cl.errors import UserError
from cl.files import from_json, read_json, sealed, sha256_of, unsealed, write_json, write_whole
from cl.keys import differences, noted
from cl.metrics import average_accuracy
from cl.overlay import merged
from cl.params import Params, Scenario, Selection
from cl.paths import apart
from cl.reading import RunResult, read_run, read_runs
from cl.register import method_class
from cl.sections import Benchmark, Model, Training
from cl.work import FINISHED, Finished, finished

ORIGIN = ".origin.json"
KEPT = (".json", ".cost.json")
MOST_COMMITS = 500
"""How far back the code of a run is looked for."""


class Origin(TypedDict):
    """Where a run came from: `seed-0.origin.json` without its seal."""

    method: str
    seed: int
    settings: dict[str, Any]
    """Those sections of its params that decide its bytes."""
    commit: str | None
    """None: no commit has the code that it ran."""
    torch: str
    data: str
    """The digest of its tasks."""
    files: dict[str, str]
    """The SHA-256 of the files beside it."""


ORIGINS: TypeAdapter[Origin] = TypeAdapter(Origin)


@dataclass(frozen=True)
class Packed:
    """A kept run, whose files are as they were packed."""

    run: RunResult
    commit: str | None
    data: str
    settings: dict[str, Any]

    @property
    def hours(self) -> float:
        """Of processor time, as its cost file says."""
        return ((self.run.cost["process_seconds"] if self.run.cost else None) or 0.0) / 3600


def files_of(runs: Iterable[RunResult], out: Path, endings: Collection[str]) -> dict[Path, bytes]:
    """Those of the runs' files that there are, by their paths below `out`."""
    paths = [run.path.with_suffix(ending) for run in runs for ending in endings]
    return {path.relative_to(out): path.read_bytes() for path in paths if path.exists()}


def pack(out: Path, home: Path, expected: Mapping[str, Params]) -> list[str]:
    """Add the finished runs under `out` to those in `home`, in place of those of the same method and seed.

    `expected`: by method, the params of its study; runs of other methods are left out. Returns what was done, as lines.
    Raises `UserError`, and packs nothing, if a run was learned from other settings than these, or if its files or the
    data are no longer those that it was learned with.
    """
    apart("--pack", out / "results", home)
    runs = [run for run in read_runs(out) if run.method in expected]
    if not runs:
        raise UserError(f"{out}: has no runs of the methods that belong in {home}: {', '.join(expected)}")
    files, origins = files_of(runs, out, KEPT), {}
    for run in runs:
        origin = origin_of(run, out)
        if changed := unlike(origin["settings"], expected[run.method], run):
            raise UserError(
                f"{run.path}: was not learned as the study for {home} says ({'; '.join(changed)}); "
                "use the command on docs/verification.md"
            )
        path = run.path.relative_to(out)
        names = [path.with_suffix(ending) for ending in KEPT]
        if names[1] not in files:
            raise UserError(f"{run.path}: its costs are missing ({names[1].name}); run the same command again")
        shas = {name.name: hashlib.sha256(files[name]).hexdigest() for name in names}
        origins[path.with_suffix(ORIGIN)] = sealed({**origin, "files": shas})
    there = {path for path in origins if (home / path).exists()}
    for path, data in files.items():
        write_whole(home / path, data)
    for path, content in origins.items():
        write_json(home / path, content)
    left = sorted({path.parent.name for path in out.glob("results/*/seed-*.json")} - set(expected))
    told = f"{home}: {len(origins) - len(there)} runs added, {len(there)} replaced"
    return [told, *(f"{out}: {name} left out, as no row of {home.name} is of it" for name in left)]


def origin_of(run: RunResult, out: Path) -> dict[str, Any]:
    """Where a run came from: its settings, commit, torch and data; raises `UserError` if that cannot be told."""
    folder, done = _work_of(run, out)
    parts = noted(folder)
    own = out / "prepared" / f"seed-{run.seed}"  # where each seed draws its benchmark
    manifest = read_manifest(own if own.exists() else out / "prepared")
    if [task["digest"] for task in manifest["tasks"]] != done.tasks:
        raise UserError(f"{out / 'prepared'}: is not what {run.path} was learned from; run the same command again")
    chosen = {name: parts[name] for name in ("model", "training", "selection", "scenario", "methods", "memory_budget")}
    return {
        "method": run.method,
        "seed": run.seed,
        "settings": {"benchmark": _without_path(manifest["options"]), **chosen},
        "commit": commit_of(tuple(sorted(parts["code"].items()))),
        "torch": parts["torch"],
        "data": digest(done.tasks),
    }


def _work_of(run: RunResult, out: Path) -> tuple[Path, Finished]:
    """The work folder whose result was published as this run's."""
    sha256 = sha256_of(run.path)
    for path in (out / ".work" / run.method / f"seed-{run.seed}").glob(f"*/{FINISHED}"):
        done = finished(path.parent)
        if done is not None and done.files.get("result.json") == sha256 and noted(path.parent):
            return path.parent, done
    raise UserError(f"{run.path}: no work folder in {out / '.work'} has this result; run the same command again")


def _without_path(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name != "path"}


def settings_of(params: Params, method: str) -> dict[str, Any]:
    """The params that decide a run's bytes, in the form that `origin_of` gives them; not where the data are."""
    dumped = params.model_dump(mode="json")
    scenario = params.scenario.model_dump(mode="json", exclude={"unsupported"})
    sections = {name: dumped[name] for name in ("model", "training", "selection", "memory_budget")}
    knobs = dict(params.methods[method])
    return {
        "benchmark": _without_path(dumped["benchmark"]),
        **sections,
        "scenario": scenario,
        "methods": {method: knobs},
    }


def unlike(before: Mapping[str, Any], params: Params, run: RunResult) -> list[str]:
    """What differs between a kept run's settings and those of its study, in words.

    A setting that did not exist yet when the run was learned had its default.
    """
    method = run.method
    now = settings_of(of_seed(params, run.seed), method)
    plain = {
        "benchmark": _without_path(Benchmark().model_dump(mode="json")),
        "model": Model().model_dump(mode="json"),
        "training": Training().model_dump(mode="json"),
        "selection": Selection().model_dump(mode="json"),
        "scenario": Scenario().model_dump(mode="json", exclude={"unsupported"}),
        "memory_budget": None,
        "methods": {method: {name: knob.default for name, knob in method_class(method).knobs.items()}},
    }
    return differences(merged(plain, dict(before)), merged(plain, now))


def packed_runs(home: Path, method: str) -> list[Packed]:
    """The kept runs of a method by seed; raises `UserError` for a file that is missing or not as it was packed."""
    folder = home / "results" / method
    names = {match[1] for path in folder.glob("seed-*.json") if (match := re.match(r"(seed-\d+)\.", path.name))}
    return [_packed(folder / f"{name}.json", method) for name in sorted(names, key=lambda name: int(name[5:]))]


def merge(there: Path, home: Path, expected: Mapping[str, Params]) -> list[str]:
    """Take over runs that were packed in another folder, in place of those of the same method and seed.

    `expected`: as for `pack`. Returns what was done, as lines. Raises `UserError`, and takes over nothing, if a file is
    not as it was packed, or if a run was learned from other settings.
    """
    runs = [one for method in expected for one in packed_runs(there, method)]
    if not runs:
        raise UserError(f"{there}: has no packed runs of {', '.join(expected)}")
    for one in runs:
        if changed := unlike(one.settings, expected[one.run.method], one.run):
            raise UserError(f"{one.run.path}: was learned from other settings ({'; '.join(changed)})")
    files = files_of([one.run for one in runs], there, (*KEPT, ORIGIN))
    for path, data in files.items():
        write_whole(home / path, data)
    return [f"{home}: {len(runs)} runs taken over from {there}"]


def _packed(path: Path, method: str) -> Packed:
    again = "take the committed one back, or pack the run again (python -m benchmarks.verification --pack OUT)"
    beside = path.with_suffix(ORIGIN)
    origin = unsealed(read_json(beside))
    try:
        ORIGINS.validate_python(origin, strict=True)
    except ValidationError:
        raise UserError(f"{beside}: missing or edited; {again}") from None
    assert origin is not None
    if set(origin["files"]) != {path.with_suffix(ending).name for ending in KEPT}:
        raise UserError(f"{beside}: is of other files; {again}")
    for name, sha256 in origin["files"].items():
        file = path.with_name(name)
        if not file.is_file():
            raise UserError(f"{file}: missing; {again}")
        if sha256_of(file) != sha256:
            raise UserError(f"{file}: edited, its SHA-256 is not that of {beside.name}; {again}")
    run = read_run(path, method, int(path.stem[5:]))
    if (origin["method"], origin["seed"]) != (run.method, run.seed):
        raise UserError(f"{beside}: is of another run; {again}")
    stated = from_json(path.read_bytes()).get("average_accuracy")
    if stated is None or abs(stated - average_accuracy(run.accuracy)) > 1e-9:
        raise UserError(f"{path}: its average_accuracy is not that of its accuracy matrix; {again}")
    return Packed(run, origin["commit"], origin["data"], origin["settings"])


@cache
def commit_of(code: tuple[tuple[str, str], ...]) -> str | None:
    """The last commit of this branch in which these files of `cl` have these SHA-256; None where none has.

    Looks at the commits that changed `cl`, from the present one back.
    """
    try:
        commits = _git("rev-list", f"--max-count={MOST_COMMITS}", "--full-history", "HEAD", "--", "cl").split()
        return next((name.decode() for name in commits if _has(name.decode(), code)), None)
    except (OSError, subprocess.CalledProcessError):
        return None  # outside git


def _has(commit: str, code: Iterable[tuple[str, str]]) -> bool:
    blobs = dict(_blobs(commit))
    return all(file in blobs and _sha256(blobs[file]) == sha256 for file, sha256 in code)


def _blobs(commit: str) -> Iterator[tuple[str, str]]:
    for line in _git("ls-tree", "-r", "-z", commit, "--", "cl").decode().split("\0"):
        if line:
            about, path = line.split("\t")
            yield path.removeprefix("cl/"), about.split()[2]


@cache
def _sha256(blob: str) -> str:
    return hashlib.sha256(_git("cat-file", "blob", blob)).hexdigest()


def _git(*arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], capture_output=True, check=True).stdout
