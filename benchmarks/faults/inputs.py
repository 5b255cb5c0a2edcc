"""Bad inputs: command lines, params files, image folders, environments and requests; each is refused in a sentence.

A setting is what was written, or is refused; a picture is as bright as it was; nothing of the user's goes or changes.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import yaml

from benchmarks.faults import nasty, pictures
from benchmarks.faults.case import Kind, Shared, Verdict
from benchmarks.faults.commands import Done, Stopped, run
from benchmarks.faults.kills import LIMIT
from benchmarks.faults.mutations import copy
from benchmarks.faults.place import Place, tiny
from benchmarks.faults.served import Served
from benchmarks.faults.warm import Warm

SECONDS = 60.0
"""Within which a refusal has to come, on a busy machine."""
OUTS: tuple[tuple[str, str | None], ...] = (
    ("", None), (" ", "p/ "), ("~", "home"), ("~/results of mine", "home/results of mine"),
    ("~nobody/x", "p/~nobody/x"), ("thesis.txt", None), ("thesis.txt/out", None), ("x" * 300, None),
    ("a\nb", "p/a\nb"), ("-", "p/-"), ("/proc/out", None), ("/dev/null", None), ("../out/../out", "out"),
    ("#2", "p/#2"), ("é", "p/é"), ("photos", "p/photos"), ("%s", "p/%s"), ("file:///x", "p/file:/x"),
    ("\udcff", "p/\udcff"),
)  # fmt: skip
REQUESTS = 10
"""At once, as to have a model served takes a while."""
COMMANDS = ("flows.prepare", "flows.prepare", "cl.status", "cl.status", "flows.report")
ENVIRONMENTS: tuple[tuple[str, dict[str, str]], ...] = (
    ("stdout is ASCII", {"PYTHONIOENCODING": "ascii"}),
    ("stdout is ASCII, strictly", {"PYTHONIOENCODING": "ascii:strict", "PYTHONUTF8": "0"}),
    ("the C locale without UTF-8", {"LC_ALL": "C", "LANG": "", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}),
    ("Latin-1", {"PYTHONIOENCODING": "latin-1"}),
    ("no PATH", {"PATH": "/nowhere"}),
    ("no HOME", {"HOME": "/nowhere"}),
    ("no TMPDIR", {"TMPDIR": "/nowhere"}),
    ("a terminal of no width", {"COLUMNS": "0", "LINES": "0", "TERM": "dumb"}),
    ("warnings are errors", {"PYTHONWARNINGS": "default"}),
    ("a Prefect server that is none", {"PREFECT_API_URL": "nonsense"}),
    ("a Prefect server without a scheme", {"PREFECT_API_URL": "127.0.0.1:9/api"}),
)


class Inputs(Kind):
    """Bad inputs."""

    name, least, share = "inputs", 500, 0.14

    def __init__(self, folder: Path, seed: int, warm: Warm, deadline: float = float("inf")) -> None:
        super().__init__(folder, seed, warm, deadline)
        self.keys = nasty.keys()
        self.whole = yaml.safe_dump(tiny(), sort_keys=False).encode()
        self._finished: Shared[Place] = Shared()
        self._served: Shared[Served] = Shared()

    def close(self) -> None:
        """End the server of the model."""
        self._served.each(Served.close)

    def case(self, number: int) -> Verdict:
        """One case of each sort in turn; the rarer ones take longer."""
        draw = self.draw(number)
        if number == 0:  # it takes a while
            threading.Thread(target=self._serve_early, daemon=True).start()
        if number % 25 == 24:
            sort = self._environment
        elif number % 40 == 39:
            return self._requests(number, draw)
        else:
            sort = (self._options, self._setting, self._file, self._tree, self._setting)[number % 5]
        what, faults = sort(Place(self.new(number), caches=self.caches), draw)
        return self.judged(number, what, faults)

    def _options(self, place: Place, draw: random.Random) -> tuple[str, list[str]]:
        """A command line of known and unknown options with any values."""
        module = draw.choice(COMMANDS)
        arguments, out = ["--out", "../out"], "out" if draw.random() < 0.7 else ""
        for _ in range(draw.choice([1, 1, 2, 3])):
            sort = draw.randrange(8)
            value = _argument(draw.choice(nasty.POOL))
            if sort < 4:
                key = draw.choice([*self.keys, *nasty.KEYS_THAT_ARE_NONE])
                knob = draw.choice(["methods.ewc.strength", "methods.ebll.code_sizes", "methods.joint.flip"])
                key = draw.choice([key, key, knob])
                arguments += ["--set", f"{_argument(key)}={'abc' if key in nasty.DOWNLOADS else value}"]
            elif sort == 4:
                arguments += [draw.choice(["--methods", "--seeds"]), value]
            elif sort == 5:
                arguments += ["--params", value]
            elif sort == 6:
                arguments += [draw.choice(["--sett", "--nonsense", "-x", "stray", "--out", "--set"])]
            else:
                given, where = draw.choice(OUTS)
                arguments, out = [*arguments, "--out", given], where or ""
        done = self.warm.run(module, arguments, place, SECONDS)
        said = f"python -m {module} {_shown(arguments)}"
        return said, done.faults(0, 2) + self._strayed(place, out or ("out" if "--out" in arguments else ""))

    def _strayed(self, place: Place, out: str) -> list[str]:
        """What of the user's was touched; what is new may only stand in the output folder."""
        ours = {"prepared", ".work", "report", "results", "checkpoints", "mlflow"}
        said = []
        for fault in place.strayed():
            name, written, _ = fault.partition(" was written outside")
            inside = (
                written and out and name.startswith(f"{out}/") and name.removeprefix(f"{out}/").split("/")[0] in ours
            )
            if not inside and not (written and name == out):
                said.append(ascii(fault)[1:-1][:300])
        return said[:3]

    def _setting(self, place: Place, draw: random.Random) -> tuple[str, list[str]]:
        """One value for one key, on the command line or in a file: it is what was written, or is refused."""
        key = draw.choice([key for key, kind in self.keys.items() if nasty.scalar(kind) and key not in nasty.DOWNLOADS])
        numbers = {int, float} & set(nasty.scalar(self.keys[key]))
        text = draw.choice(nasty.NUMBERS if numbers and draw.random() < 0.8 else nasty.POOL)
        text = _argument(text)
        plain = text.strip() == text and text and not set(text) & set("#:[]{},&*!|>'\"%@`\\\n\r\t-?~=<")
        in_file = bool(plain) and draw.random() < 0.3
        arguments = ["params.yaml"]
        if in_file:
            section, _, name = key.rpartition(".")
            lines = [f"{'  ' * i}{part}:" for i, part in enumerate(section.split(".") if section else [])]
            laid = "\n".join([*lines, f"{'  ' * len(lines)}{name}: {text}"])
            (place.project / "mine.yaml").write_text(f"extends: params.yaml\n{laid}\n", encoding="utf-8")
            place.before = place.digest()
            arguments = ["mine.yaml"]
        else:
            arguments += ["--set", f"{key}={text}"]
        done = self.warm.run("flows.study", arguments, place, SECONDS)
        faults = done.faults(0, 2) + place.strayed()
        if done.code == 0 and not faults:
            value: Any = yaml.safe_load(done.stdout)
            for part in key.split("."):
                value = value[part]
            allowed = nasty.meanings(text, self.keys[key])
            if not any(type(value) is type(one) and value == one for one in allowed):
                faults.append(f"is taken for {str(value)[:60]!r}")
        where = "in a params file" if in_file else "by --set"
        return f"{key} = {text[:80]!a} {where}", faults

    def _file(self, place: Place, draw: random.Random) -> tuple[str, list[str]]:
        """A params file of any content, or something that is no file."""
        path = place.project / "mine.yaml"
        special = draw.random()
        if special < 0.05:
            os.mkfifo(path)
            what = "a FIFO"
        elif special < 0.1:
            path.symlink_to(draw.choice(["nowhere", ".", "mine.yaml", "/dev/null"]))
            what = f"a link to {os.readlink(path)}"
        else:
            path.write_bytes(nasty.params_file(draw, self.whole))
            what = ascii(
                path.read_bytes()[:200] if path.stat().st_size < 2000 else _changed(self.whole, path.read_bytes())
            )
        module = draw.choice(["flows.study", "flows.study", "cl.status", "flows.prepare"])
        arguments = ["mine.yaml"] if module == "flows.study" else ["--params", "mine.yaml"]
        place.before = place.digest()
        done = self.warm.run(module, [*arguments, "--out", "../out"], place, SECONDS)
        return f"params file {what}; python -m {module}", done.faults(0, 2) + place.strayed()

    def _tree(self, place: Place, draw: random.Random) -> tuple[str, list[str]]:
        """A folder of images with up to three mishaps."""
        root = place.project / draw.choice(["images", "images", "my images #2", "bilder-é"])
        classes, said, faithful = pictures.tree(root, draw), list[str](), True
        for _ in range(draw.choice([0, 1, 1, 1, 2, 3])):
            mishap, true = pictures.mishap(root, classes, draw)
            said.append(mishap)
            faithful = faithful and true
        path = draw.choice(
            [
                str(root),
                root.name,
                f"{root}/",
                f"../p/{root.name}",
                *([str(root / "t1")] if draw.random() < 0.2 else []),
            ]
        )
        settings = [
            "benchmark.name=folder",
            f"benchmark.path={path}",
            f"benchmark.image_size={draw.choice([8, 16])}",
            "benchmark.tasks=null",
        ]
        if draw.random() < 0.3:
            settings.append("benchmark.on_bad_image=skip")
        if draw.random() < 0.2:
            settings.append(
                f"benchmark.order={draw.choice(['[t2, t1]', '[t1, t1]', '[1, 2]', '[t9]', 'x', '[]', '[null]'])}"
            )
        arguments = ["--out", "../out", *(part for setting in settings for part in ("--set", setting))]
        place.before = place.digest()
        done = self.warm.run("flows.prepare", arguments, place, SECONDS)
        faults = done.faults(0, 2) + place.strayed()
        manifest = place.out / "prepared" / "manifest.json"
        if done.code == 0 and faithful and not faults:
            faults += pictures.brightness(manifest.parent, json.loads(manifest.read_bytes()))
        what = f"images ({'; '.join(said) or 'no mishap'}): python -m flows.prepare {_shown(arguments[2:])}"
        return what, faults

    def _environment(self, place: Place, draw: random.Random) -> tuple[str, list[str]]:
        """A real command on a finished run, where something is not as on a desktop."""
        place = self._with_results(place)
        module, more = draw.choice(
            [("flows.report", ["--show"]), ("flows.report", []), ("cl.status", []), ("cl", ["--methods", "ewc"])]
        )
        arguments = [*more, "--out", "../out"]
        if draw.random() < 0.3:
            done = _nobody_listens(module, arguments, place)
            faults = [f"Traceback: {done.traceback}"] if done.traceback else []
            faults += ["Exception ignored at the end"] if "Exception ignored" in done.stderr else []
            return f"nobody reads its output: python -m {module} {' '.join(arguments)}", faults + place.strayed()
        what, changed = draw.choice(ENVIRONMENTS)
        done = run(module, arguments, place, LIMIT, changed)
        return f"{what}: python -m {module} {' '.join(arguments)}", done.faults(0) + place.strayed()

    def _with_results(self, place: Place) -> Place:
        """A finished run with its report in the place."""
        origin = self._finished.get("finished", self._finish)
        copy(origin.out, place.out)
        return place

    def _finish(self) -> Place:
        place = Place(self.folder / "finished", caches=self.caches)
        for module, more in (("cl", ["--methods", "ewc"]), ("flows.report", [])):
            done = self.warm.run(module, [*more, "--out", "../out"], place, LIMIT)
            if done.code != 0:
                raise RuntimeError(f"{module}: {done.code}: {done.last}")
        return place

    def _serve_early(self) -> None:
        with contextlib.suppress(RuntimeError, Stopped):  # told by the first case that needs it
            self._server()

    def _server(self) -> Served:
        return self._served.get("served", lambda: Served(self.folder / "served", self.warm, self.caches))

    def _requests(self, number: int, draw: random.Random) -> Verdict:
        """Some requests to a served model."""
        served, said, faults = self._server(), list[str](), list[str]()
        for _ in range(REQUESTS):
            what, new = served.request(draw)
            faults += new
            said += [what] if new else []
        return self.judged(number, f"{REQUESTS} requests {'; '.join(said)}", faults, REQUESTS)


def _argument(text: str) -> str:
    """What a command line can hold: no zero byte, and not more than the kernel takes."""
    return text.replace("\0", "")[:100_000]


def _shown(arguments: list[str]) -> str:
    """As the campaign prints them: on one line, none longer than a line."""
    return " ".join(ascii(part) if len(part) < 100 else f"{part[:80]!a}... ({len(part)})" for part in arguments)


def _changed(before: bytes, after: bytes) -> bytes:
    """The first lines of a file that are not in another."""
    known = set(before.splitlines())
    return b" / ".join([line[:100] for line in after.splitlines() if line not in known][:3]) or b"(a line gone)"


def _nobody_listens(module: str, arguments: list[str], place: Place) -> Done:
    """The command with a standard output whose reader has gone."""
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", module, *arguments]
    try:
        done = subprocess.run(
            command,
            cwd=place.project,
            env=place.environment(),
            stdout=write,
            stderr=subprocess.PIPE,
            timeout=LIMIT,
            check=False,
        )
    finally:
        os.close(write)
    return Done(done.returncode, "", done.stderr.decode(errors="replace"), 0.0)
