"""Serves the reports of this folder to browsers on this machine: `python -m flows.pages`. `make serve` starts it.

Only what a report or a night has written can be read: pages, figures and tables in the folders `report` and `nights`.
"""

from __future__ import annotations

import argparse
import html
import re
import urllib.parse
from datetime import UTC, datetime
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cl import cli
from flows.deadline import finish

HOST = "127.0.0.1"
PART = r"[^/.][^/]*"  # no hidden folder, and no way up
SERVED = re.compile(rf"(?:{PART}/)*(?:report|nights)/(?:{PART}/)*{PART}\.(?:html|png|csv|json|md)")
PATTERNS = ("report/index.html", "*/report/index.html", "*/*/report/index.html", "*/nights/latest.html")
STYLE = "body{font:16px/1.6 system-ui,sans-serif;max-width:46rem;margin:3rem auto;padding:0 1rem}"


def listing(root: Path) -> str:
    """The page that lists all reports below a folder, the newest first."""
    found = {path for pattern in PATTERNS for path in root.glob(pattern) if SERVED.fullmatch(_name(root, path))}
    lines = []
    for path in sorted(found, key=lambda path: -path.stat().st_mtime):
        name = _name(root, path)
        kind = "last night" if path.name == "latest.html" else "report"
        when = datetime.fromtimestamp(path.stat().st_mtime, UTC).strftime("%Y-%m-%d %H:%M UTC")
        lines.append(f'<li><a href="{urllib.parse.quote(name)}">{html.escape(name)}</a> ({kind}, {when})</li>')
    nothing = "<p>There is no report yet: <code>python -m flows.compare</code> makes one.</p>"
    content = f"<ul>{''.join(lines)}</ul>" if lines else nothing
    head = '<meta charset="utf-8"><meta name="color-scheme" content="light dark"><title>Reports</title>'
    return f"<!doctype html><html lang=en><head>{head}<style>{STYLE}</style></head><h1>Reports</h1>{content}</html>\n"


def _name(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()


class Handler(SimpleHTTPRequestHandler):
    """Answers for reports, and with 404 for all else."""

    root: Path

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, directory=str(self.root), **named)

    def send_head(self) -> Any:
        """The file that is asked for, or None where an answer is given already."""
        host = self.headers.get("Host", "").rpartition(":")[0]
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path).lstrip("/")
        if host not in (HOST, "localhost"):  # a page from elsewhere, whose name leads here
            self.send_error(HTTPStatus.FORBIDDEN)
        elif path == "health":
            self._say("ok\n", "text/plain")
        elif path == "":
            self._say(listing(self.root), "text/html")
        elif SERVED.fullmatch(path) and (self.root / path).is_file():
            return super().send_head()
        else:
            self.send_error(HTTPStatus.NOT_FOUND, "no report")
        return None

    def _say(self, text: str, kind: str) -> None:
        data = text.encode()
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def end_headers(self) -> None:
        self.send_header("Cache-Control", "no-cache")  # a report is made anew at the same address
        super().end_headers()


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    made = argparse.ArgumentParser(prog="python -m flows.pages", description=main.__doc__)
    made.add_argument("--port", type=int, default=4280, help="default: 4280")
    return made


def main() -> int:
    """Serve the reports below the current folder to browsers on this machine, until interrupted."""
    given = parser().parse_args()
    handler = type("Here", (Handler,), {"root": Path.cwd()})
    with ThreadingHTTPServer((HOST, given.port), handler) as server:
        print(f"reports: http://{HOST}:{given.port}", flush=True)
        server.serve_forever()
    return 0


if __name__ == "__main__":
    finish(cli.guarded(main))
