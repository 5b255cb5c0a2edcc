"""Published numbers beside ours, with a verdict on each: `python -m benchmarks.verification`.

Fills docs/verification.md from the targets (`reproduction/targets/*.yaml`) and the kept results (`reproduction/`).
`--pack OUT...` first adds the finished runs of these output folders to what is kept. `--check` writes nothing. It ends
with 1 if a row is red (it disagrees and nothing says why, it has too few seeds, or a file is missing or was edited), or
if the page is not what the files give.
"""

from __future__ import annotations

import argparse
import difflib
import shlex
import sys
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from benchmarks.judging import Line, Verdict, lines_of, params_of
from benchmarks.packing import pack
from benchmarks.tables import fill, marked
from benchmarks.targets import HOME, Cell, Implementation, Numbers, Order, Table, read_tables
from cl import cli
from cl.errors import UserError
from cl.params import Params
from cl.paths import option
from flows.report.words import listing

PAGE = Path("docs/verification.md")
WIDTH = 120
MOST_SHOWN = 10
"""Lines of the page that differ, in the check's output."""
DRAWS = {False: "All seeds learn the same tasks", True: "Each seed draws the tasks too"}
VERDICTS: tuple[Verdict, ...] = ("agrees", "disagrees", "too few seeds", "damaged", "not run")
Tables = Mapping[str, Numbers | Order | Implementation]
Lines = Mapping[str, list[Line]]


def blocks(tables: Tables, lines: Lines) -> dict[str, str]:
    """What has to stand in which block of the page."""
    whole = "\n\n".join(section(tables[name], lines[name]) for name in tables)
    return {"summary": summary(tables, lines), "tables": f"{whole}\n"}


def summary(tables: Tables, lines: Lines) -> str:
    """How many rows agree, in all and by table."""
    told = [f"**{counted([line for of_table in lines.values() for line in of_table])}.**", ""]
    told += ["| table | rows | " + " | ".join(VERDICTS) + " |", "| :--- |" + " ---: |" * (len(VERDICTS) + 1)]
    for name, table in tables.items():
        counts = Counter(line.verdict for line in lines[name])
        cells = [table.title, str(len(lines[name])), *(str(counts[verdict]) for verdict in VERDICTS)]
        told.append("| " + " | ".join(cells) + " |")
    return "\n".join(told)


def counted(lines: Sequence[Line]) -> str:
    """`38 of the 44 rows that were run agree; 6 disagree (4 explained, 2 open); 10 were not run`."""
    counts = Counter(line.verdict for line in lines)
    run = len(lines) - counts["not run"]
    parts = [f"{counts['agrees']} of the {run} rows that were run {_verb(counts['agrees'], 'agrees', 'agree')}"]
    if counts["disagrees"]:
        reasons = [line.why for line in lines if line.verdict == "disagrees"]
        silent, still_open = reasons.count(""), sum(reason.startswith("open:") for reason in reasons)
        how = [f"{len(reasons) - silent - still_open} explained", f"{still_open} open"]
        how += [f"{silent} without a reason"] if silent else []
        parts.append(f"{len(reasons)} {_verb(len(reasons), 'disagrees', 'disagree')} ({', '.join(how)})")
    few, damaged, left = counts["too few seeds"], counts["damaged"], counts["not run"]
    parts += [f"{few} {_verb(few, 'has', 'have')} too few seeds"] if few else []
    parts += [f"{damaged} {_verb(damaged, 'is', 'are')} damaged"] if damaged else []
    parts.append(f"{left} {_verb(left, 'was', 'were')} not run")
    return "; ".join(parts)


def _verb(count: int, of_one: str, of_more: str) -> str:
    return of_one if count == 1 else of_more


def section(table: Table, lines: Sequence[Line]) -> str:
    """One table of the page: its source, how to make it again, its rows, and where they disagree."""
    source = table.source
    about = [
        f"Source: [{source.paper}]({source.link}), {source.where}.",
        *([] if source.code is None else [source.code.rstrip(".") + "."]),
        table.about,
        said_of_tolerance(table),
        said_of_cost(lines),
    ]
    parts = [f"## {table.title}", paragraph(about), commands(table), rows_of(lines)]
    reasons = [f"- **{line.title}**: {line.why}" for line in lines if line.why]
    if reasons:
        parts += ["### Where it disagrees: " + table.title.partition(". ")[0], "\n".join(map(_hanging, reasons))]
    return "\n\n".join(filter(None, parts))


def said_of_tolerance(table: Table) -> str:
    """How a verdict is reached, and when that was written down."""
    when = "before our runs" if table.stated == "before" else "after our runs"
    if isinstance(table, Numbers):
        spreads: dict[str, list[str]] = {}
        for name, column in table.columns.items():
            kind = f"{column.spread} over {column.seeds} seeds" if column.seeds else "no spread"
            spreads.setdefault(kind, []).append(f"*{name}*")
        spread = listing([kind + (f" ({listing(of)})" if len(spreads) > 1 else "") for kind, of in spreads.items()])
        seeds = {params_of(cell, table).benchmark.drawn for cell in table.cells() if cell.study.exists()}
        drawn = "".join(f"{DRAWS[own]}. " for own in sorted(seeds))
        rule = f"± in the source: {spread}. {drawn}A row agrees by the rule in its column *tolerance*"
    elif isinstance(table, Order):
        rule = "A row agrees if Kendall's tau between the two orders is at least the number in its column *tolerance*"
    else:
        rule = "A row agrees if the 95 % interval of the difference, taken seed by seed, lies within the tolerance"
    return f"{rule}; it needs at least {table.seeds} seeds. Rule and number of seeds were stated {when}."


def said_of_cost(lines: Sequence[Line]) -> str:
    """Hours of processor time of all that was run; a run that serves two columns counts once."""
    hours = {line.runs: line.hours for line in lines if line.runs}
    if not hours:
        return "Nothing in this table has been run yet."
    return f"The runs took {sum(hours.values()):.1f} hours of processor time."


def commands(table: Table) -> str:
    """The commands that make a table again, as a block of code; in words where a study is not there yet."""
    if isinstance(table, Order):
        return f"[Its page](reproduction.md) has the commands. They keep the results in `reproduction/{table.study}`."
    if isinstance(table, Implementation):
        seeds = ",".join(map(str, range(table.seeds)))
        return f"    pip install -e '.[outside]'\n    python -m benchmarks.outside --keep --seeds {seeds}"
    assert isinstance(table, Numbers)
    groups: dict[str, list[Cell]] = {}
    for cell in table.cells():
        groups.setdefault(cell.folder, []).append(cell)
    missing = sorted({cell.study.stem for cells in groups.values() for cell in cells if not cell.study.exists()})
    there = {folder: cells for folder, cells in groups.items() if cells[0].study.exists()}
    lines = [command(cells, table.options, f"out/{folder}") for folder, cells in there.items()]
    if there:
        outs = [f"out/{folder}" for folder in there]
        lines.append(_broken(["python -m benchmarks.verification --pack", *outs]))
    told = "\n".join(f"    {line}" for line in lines)
    note = f"Studies still to be written: {', '.join(missing)}." if missing else ""
    return "\n\n".join(filter(None, [told, note]))


def command(cells: Sequence[Cell], options: Iterable[str], out: str) -> str:
    """The comparison that makes the runs of one output folder."""
    methods = ",".join(dict.fromkeys(cell.row.method for cell in cells))
    settings = [f"--set {shlex.quote(text)}" for text in (*options, *cells[0].row.settings)]
    words = [f"python -m flows.compare --params {cells[0].study}", f"--methods {methods}", *settings]
    return _broken([*words, f"--out {out}"])


def _broken(words: Iterable[str]) -> str:
    """A command as lines of a block of code."""
    return " \\\n        ".join(_packed_into_lines(words, WIDTH - 10))


def _packed_into_lines(words: Iterable[str], width: int) -> list[str]:
    lines: list[str] = []
    for word in words:
        if lines and len(lines[-1]) + 1 + len(word) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def rows_of(lines: Sequence[Line]) -> str:
    """The table itself."""
    told = [
        "| row | | published | its 95 % | known | here | n | tolerance | verdict | commit | data |",
        "| :--- | :--- | ---: | ---: | :--- | ---: | ---: | :--- | :--- | :--- | :--- |",
    ]
    for line in lines:
        verdict = line.verdict if line.verdict in ("agrees", "not run") else f"**{line.verdict}**"
        half = line.half if line.half == "–" else f"± {line.half}"
        cells = [line.name, line.column, line.published, half, line.mark, line.ours, str(line.seeds or "–")]
        cells += [line.tolerance, verdict, _short(line.commits), _short(line.data)]
        told.append("| " + " | ".join(cells) + " |")
    return "\n".join(told)


def _short(digests: Sequence[str]) -> str:
    more = f" +{len(digests) - 1}" if len(digests) > 1 else ""
    return (digests[0][:8] + ("-dirty" if digests[0].endswith("-dirty") else "") + more) if digests else "–"


def paragraph(sentences: Iterable[str]) -> str:
    """Sentences as a paragraph of the page."""
    return textwrap.fill(
        " ".join(" ".join(sentence.split()) for sentence in sentences),
        WIDTH,
        break_on_hyphens=False,
        break_long_words=False,
    )


def _hanging(text: str) -> str:
    return textwrap.fill(
        " ".join(text.split()), WIDTH, subsequent_indent="  ", break_on_hyphens=False, break_long_words=False
    )


def differing(made: Mapping[str, str]) -> list[str]:
    """The lines in which the page is not what the files give; raises `UserError` without the page or a block."""
    if not PAGE.exists():
        raise UserError(f"{PAGE}: there is no such page; the command has to be run from the project's root")
    text = PAGE.read_text(encoding="utf-8")
    told = []
    for block, content in made.items():
        there = [match[3] for match in marked(block).finditer(text)]
        if not there:
            raise UserError(f"{PAGE}: has no block <!-- {block} --> ... <!-- /{block} -->")
        for one in there:
            changes = list(difflib.unified_diff(one.splitlines(), content.splitlines(), lineterm="", n=0))[2:]
            told += [line for line in changes if line.startswith(("-", "+"))]
    return told


def check(tables: Tables, lines: Lines) -> list[str]:
    """What is wrong, a line each; empty if nothing is."""
    red = [f"{tables[name].title}: {line.red}" for name in tables for line in lines[name] if line.red]
    changes = differing(blocks(tables, lines))
    if changes:
        red.append(f"{PAGE}: is not what the files give; look why, then run python -m benchmarks.verification")
        red += [
            f"  page:  {line[1:]}" if line.startswith("-") else f"  files: {line[1:]}" for line in changes[:MOST_SHOWN]
        ]
        if len(changes) > MOST_SHOWN:
            red.append(f"  and {len(changes) - MOST_SHOWN} more lines")
    return red


def folders_of(tables: Tables) -> dict[str, dict[str, Params]]:
    """By folder that keeps runs, and by method: the params with which these runs are learned."""
    folders: dict[str, dict[str, Params]] = {}
    for table in tables.values():
        if isinstance(table, Numbers):
            for cell in table.cells():
                if cell.study.exists():
                    folders.setdefault(cell.folder, {}).setdefault(cell.row.method, params_of(cell, table))
    return folders


def keep(outs: Sequence[Path], tables: Tables, name: str | None) -> None:
    """Pack the finished runs of these output folders, and say so.

    Each goes into the folder of its own name, or into `name`.
    """
    folders = folders_of(tables)
    for out in outs:
        into = name or out.resolve().name
        if into not in folders:
            raise UserError(f"--pack {out}: no row is of a folder {into}; known: {', '.join(folders)} (see --as)")
        print(*pack(out, HOME / into, folders[into]), sep="\n")


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.verification", description=(__doc__ or "").split("\n")[0])
    made.add_argument(
        "--pack",
        type=option("--pack"),
        nargs="+",
        metavar="OUT",
        default=[],
        help="output folders, named as in the commands on the page; their finished runs are kept before it is written",
    )
    made.add_argument(
        "--as", dest="name", metavar="NAME", help="the name on the page, if the output folder has another"
    )
    made.add_argument(
        "--check", action="store_true", help="write nothing; end with 1 if a row is red or the page out of date"
    )
    return made


def main() -> int:
    """Fill the page, or check it."""
    given = parser().parse_args()
    tables = read_tables()
    if given.pack:
        keep(given.pack, tables, given.name)
    lines = {name: lines_of(table) for name, table in tables.items()}
    everything = [line for of_table in lines.values() for line in of_table]
    if given.check:
        wrong = check(tables, lines)
        print(*wrong, sep="\n", file=sys.stderr)
        print(f"{counted(everything)}; {'red' if wrong else 'green'}")
        return 1 if wrong else 0
    for block, content in blocks(tables, lines).items():
        fill(PAGE, block, content)
    print(*[f"red: {line.red}" for line in everything if line.red], counted(everything), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(cli.guarded(main))
