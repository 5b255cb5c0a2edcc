"""What a learned model says of pictures: `python -m flows.predict FOLDER`.

The model is the champion, or any registered model or checkpoint. The answers are a CSV or Parquet file. Where the
folders are called like classes of the model, they are judged too.
"""

from __future__ import annotations

import argparse
import csv
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cl import cli
from cl.errors import UserError, plain
from cl.files import write_whole
from cl.register import checked
from flows.deadline import finish
from flows.report.words import share
from flows.serving.confusion import draw
from flows.serving.judgement import Judgement, class_of, drift, judge
from flows.serving.pictures import Answer, Picture, answers, found
from flows.serving.source import add_options, used

COLUMNS = ("path", "task", "class", "probability", "known", "label", "fault")
"""Of the file. `known` is empty where the model cannot say; `label` is the folder's, where it names a class."""
SHOWN = 5
WORST = 5
FOLDERS = "folders"
"""Of `--task`: the task is the folder above the class."""


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    made = cli.parser("flows.predict", main.__doc__)
    made.add_argument("pictures", type=Path, metavar="FOLDER", help="or a picture, or a list of pictures (.txt)")
    add_options(made)
    made.add_argument(
        "--to",
        type=Path,
        default=Path("predictions.csv"),
        metavar="FILE",
        help="the answers, .csv or .parquet; default: %(default)s",
    )
    made.add_argument(
        "--task",
        metavar="NAME",
        help="tell the model this task; `folders`: the task that the folders of each picture name",
    )
    made.add_argument("--no-labels", action="store_true", help="do not judge, whatever the folders are called")
    return made


def main() -> int:
    """Classify the pictures of a folder with the champion, or with any registered model or checkpoint."""
    given = parser().parse_args()
    if given.to.suffix not in (".csv", ".parquet"):
        raise UserError(f"--to {given.to}: has to end in .csv or .parquet")
    params = cli.params_of(given)
    root, pictures = found(given.pictures)
    model = used(checked(params), given)
    print(f"predict: {len(pictures):,} files with {model.said}", flush=True)

    def task_of(picture: Picture) -> int | None:
        return model.model.task(picture.task if given.task == FOLDERS else given.task)

    for picture in {one.task: one for one in pictures}.values():
        task_of(picture)  # a task that is missing or unknown is said before the first picture is read
    said: list[Answer] = []
    with _writer(given.to) as write:
        for answer in answers(model.model, root, pictures, task_of, lambda line: print(line, flush=True)):
            said.append(answer)
            write(_row(model.model, answer))
    faults = [answer for answer in said if answer.fault is not None]
    print(f"predict: {len(said) - len(faults):,} answers in {given.to}")
    if faults:
        named = ", ".join(f"{plain(one.picture.path)} ({one.fault})" for one in faults[:SHOWN])
        more = f" and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        print(f"predict: {len(faults):,} files are no usable pictures: {named}{more}")
    if (judgement := None if given.no_labels else judge(model.model, said)) is not None:
        _report(judgement, given.to)
    elif refused := sum(answer.known is False for answer in said):
        print(
            f"predict: {refused:,} of {len(said) - len(faults):,} pictures are none of the classes (`known` is false)"
        )
    if (moved := drift(model.model, said, aware=given.task is not None)) is not None:
        print(f"predict: {moved.said}")
    return 0


def _row(model: Any, answer: Answer) -> dict[str, Any]:
    """The answer under `COLUMNS`; what does not apply is None."""
    is_answer = answer.fault is None
    return {
        "path": answer.picture.path,
        "task": answer.task,
        "class": answer.label,
        "probability": answer.probability if is_answer else None,
        "known": answer.known,
        "label": class_of(model, answer.picture),
        "fault": answer.fault,
    }


@contextmanager
def _writer(file: Path) -> Iterator[Any]:
    """A function that writes a row; the file appears when all are written, in place of an older one."""
    part = file.with_name(f".{file.name}.part")
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _parquet(part) if file.suffix == ".parquet" else _csv(part) as write:
            yield write
        os.replace(part, file)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def _csv(part: Path) -> Iterator[Any]:
    with part.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()

        def write(row: dict[str, Any]) -> None:
            known = None if row["known"] is None else str(row["known"]).lower()
            writer.writerow({**row, "known": known})

        yield write


@contextmanager
def _parquet(part: Path) -> Iterator[Any]:
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    kinds = {"probability": pa.float64(), "known": pa.bool_()}
    schema = pa.schema([(name, kinds.get(name, pa.string())) for name in COLUMNS])
    waiting: list[dict[str, Any]] = []
    with ParquetWriter(part, schema) as writer:

        def flush(least: int) -> None:
            if len(waiting) >= least:
                writer.write_table(pa.Table.from_pylist(waiting, schema))
                waiting.clear()

        def write(row: dict[str, Any]) -> None:
            waiting.append(row)
            flush(10_000)

        yield write
        flush(1)


def _report(found: Judgement, file: Path) -> None:
    """Print how right the model is, and write tables and a picture beside the answers."""
    error = f"expected calibration error {share(found.calibration_error)} %"
    print(f"predict: accuracy {share(found.accuracy)} % of {found.count:,} labelled pictures; {error}")
    worst = [f"{name} {share(found.by_class[name][1])} %" for name in found.worst(WORST)]
    print(f"predict: worst classes: {', '.join(worst)}")
    if found.known is not None:
        print(f"predict: {share(found.known)} % of them are known to the model")
    if found.foreign:
        refused = "" if found.foreign_refused is None else f", of which it refuses {share(found.foreign_refused)} %"
        print(f"predict: {found.foreign:,} pictures are in folders of no class of the model{refused}")
    beside = {name: file.with_name(f"{file.stem}.{name}") for name in ("classes.csv", "confusion.csv", "confusion.png")}
    _table(beside["classes.csv"], ["class", "pictures", "accuracy"], [[n, *v] for n, v in found.by_class.items()])
    lines: list[list[Any]] = [[name, *counts] for name, counts in found.confusion.items()]
    _table(beside["confusion.csv"], ["class", *found.labels], lines)
    write_whole(beside["confusion.png"], draw(found))
    print(f"predict: {', '.join(path.name for path in beside.values())} are beside the answers")


def _table(path: Path, head: Sequence[str], lines: Sequence[Sequence[Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([head, *lines])


if __name__ == "__main__":
    finish(cli.guarded(main))
