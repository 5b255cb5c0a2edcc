"""No step waits for a GPU without need, seen on a device that is pretended, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from benchmarks.tables import marked
from benchmarks.waits import PAGE
from cl.names import names_in
from tests.cl.small import REPOSITORY

PLANTED = """
import json, torch
from benchmarks import pretend
device, found = pretend.install(), {}
with pretend.watched() as watch:
    x = torch.arange(6.0).to(device, non_blocking=True)
    for name, act in {
        "nothing": lambda: (x * 2 + x[torch.zeros(2, dtype=torch.int64, device=device)].sum()).sqrt(),
        "fill": lambda: x.clone().masked_fill_(x > 1, 0.0),
        "item": lambda: x[0].item(),
        "branch": lambda: bool((x > 1).any()),
        "list": lambda: x.tolist(),
        "cpu": lambda: x.cpu(),
        "made here": lambda: torch.tensor([1, 2], device=device),
        "sent": lambda: torch.ones(2).to(device),
        "queued": lambda: torch.ones(2).to(device, non_blocking=True),
        "filled from here": lambda: x.copy_(torch.ones(6)),
        "index from here": lambda: x[torch.tensor([1])],
        "mask": lambda: x[x > 1],
        "nonzero": lambda: x.nonzero(),
        "unique": lambda: x.unique(),
        "bincount": lambda: x.long().bincount(),
    }.items():
        watch.taken()
        act()
        found[name] = {kind: count for (kind, _), count in watch.taken().items()}
    try:
        x + torch.ones(6)
    except RuntimeError as error:
        found["both sides"] = str(error)
print(json.dumps(found))
"""
OTHERS = ("er", "derpp", "a_gem", "cope", "icarl", "gem", "r_pm", "lwf", "fecam", "ranpac")
"""Methods whose steps are of another kind where classes come to one head."""


def answer(*command: str) -> Any:
    done = subprocess.run([sys.executable, *command], cwd=REPOSITORY, stdout=subprocess.PIPE, encoding="utf-8")
    assert done.returncode == 0
    return json.loads(done.stdout)


def test_what_is_noted() -> None:
    found = answer("-c", PLANTED)
    refused = found.pop("both sides")
    assert "tensors of the host and of the device" in refused
    read, sent, shape = {"read back": 1}, {"sent": 1}, {"shape": 1}
    assert found == {
        "nothing": {},
        "fill": {},
        "item": read,
        "branch": read,
        "list": read,
        "cpu": read,
        "made here": sent,
        "sent": sent,
        "queued": {"queued": 1},
        "filled from here": sent,
        "index from here": sent,
        "mask": shape,
        "nonzero": shape,
        "unique": shape,
        "bincount": shape,
    }


def test_no_step_waits_without_need() -> None:
    """And the table on the page is what is found."""
    found = answer("-m", "benchmarks.waits", "--json")
    assert found["faults"] == []
    block = marked("waits").search((REPOSITORY / PAGE).read_text(encoding="utf-8"))
    assert block is not None
    assert block[3] == found["table"]
    assert all(f"| `{method}` |" in found["table"] for method in names_in("methods"))


def test_nor_where_classes_come_to_one_head() -> None:
    found = answer("-m", "benchmarks.waits", "--json", "--scenario", "class", "--methods", ",".join(OTHERS))
    assert found["faults"] == []
