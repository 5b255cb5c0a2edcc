"""What MLflow's server answers, with a model of ours, to requests that are none: 4xx with a sentence, never a trace."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from cl.data.prepare import prepare
from cl.run import learn
from tests.conftest import RAW
from tests.flows.test_champion import mlflow_of_its_own, params_of, saved  # noqa: F401 - the first is a fixture

pytestmark = pytest.mark.filterwarnings("ignore:.*type hint:UserWarning:mlflow", "ignore::FutureWarning")
JSON = "application/json"
NUMBERS = np.zeros((1, 8, 8), int).tolist()
TASK = "permutation-01"


def png(size: tuple[int, int] = (8, 8), mode: str = "L", form: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new(mode, size).save(file, form)
    return file.getvalue()


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def rows(*given: Any) -> str:
    return json.dumps({"dataframe_records": given})


def row(**change: Any) -> str:
    return rows({"image": NUMBERS, "task": TASK, **change})


def inputs(value: Any) -> str:
    return json.dumps({"inputs": value})


GOOD = {
    "numbers": row(),
    "a picture": row(image=text(png())),
    "an index": row(task=1),
    "an index beside a row without": rows({"image": NUMBERS, "task": 1}, {"image": NUMBERS}),
    "no task": rows({"image": NUMBERS}),
    "inputs": inputs([{"image": NUMBERS, "task": TASK}]),
    "columns": json.dumps({"dataframe_split": {"columns": ["image", "task"], "data": [[NUMBERS, TASK]]}}),
}
IMAGE, NO_TASK = "`image` has to be (1, 8, 8) whole numbers from 0 to 16", "there are permutation-01, permutation-02"
BAD: dict[str, tuple[str | bytes, str]] = {
    "no json": ("{", "valid JSON"),
    "nothing": ("", "valid JSON"),
    "bytes": (b"\xff\xfe", "valid JSON"),
    "a list": ("[]", "Received a list"),
    "null": ("null", "JSON dictionary"),
    "a number": ("5", "JSON dictionary"),
    "empty": ("{}", "JSON dictionary"),
    "another key": ('{"rows": []}', "JSON dictionary"),
    "two keys": ('{"dataframe_records": [], "inputs": []}', "exactly one"),
    "no rows": (rows(), "missing inputs ['image']"),
    "no rows of columns": ('{"dataframe_split": {"columns": ["image"], "data": []}}', "no rows"),
    "rows that are null": ('{"dataframe_records": null}', "list of records"),
    "rows that are a text": ('{"dataframe_records": "x"}', "list of records"),
    "rows of null": (rows(None), "missing inputs ['image']"),
    "rows of numbers": (rows(1, 2), "missing inputs ['image']"),
    "an empty row": (rows({}), "missing inputs ['image']"),
    "another column": (rows({"picture": NUMBERS}), "missing inputs ['image']"),
    "more cells than columns": ('{"dataframe_split": {"columns": ["image"], "data": [[1, 2]]}}', "1 columns passed"),
    "inputs that are null": (inputs(None), "NoneType"),
    "ragged inputs": (inputs([[1], [1, 2]]), "missing inputs"),
    "one big list": ("[" * 100_000 + "]" * 100_000, "recursion"),
    "an image of lists of lists": (row(image=json.loads("[" * 500 + "]" * 500)), IMAGE),
    "a number of 5,000 digits": ('{"dataframe_records": [{"image": ' + "9" * 5000 + "}]}", "5000 digits"),
    "half a character": ('{"dataframe_records": [{"image": "\\ud800"}]}', "surrogates"),
    "image null": (row(image=None), "no `image`"),
    "image true": (row(image=True), IMAGE),
    "image a number": (row(image=5), IMAGE),
    "image NaN": (row(image=float("nan")), "no `image`"),
    "image infinite": (row(image=[[[float("inf")]]]), IMAGE),
    "image a dictionary": (row(image={"a": 1}), IMAGE),
    "image empty": (row(image=[]), IMAGE),
    "image of texts": (row(image=[[["a"] * 8] * 8]), IMAGE),
    "image of truths": (row(image=[[[True] * 8] * 8]), IMAGE),
    "image of nulls": (row(image=[[[None] * 8] * 8]), IMAGE),
    "image ragged": (row(image=[[1], [1, 2]]), IMAGE),
    "image of another shape": (row(image=np.zeros((1, 9, 8), int).tolist()), IMAGE),
    "image too dark": (row(image=np.full((1, 8, 8), -1).tolist()), IMAGE),
    "image too bright": (row(image=np.full((1, 8, 8), 17).tolist()), IMAGE),
    "image far too bright": (row(image=[[[10**30] * 8] * 8]), IMAGE),
    "image of halves": (row(image=np.full((1, 8, 8), 0.5).tolist()), IMAGE),
    "image a text": (row(image="hello world!"), "not base64"),
    "image not ascii": (row(image="é☃"), "not base64"),
    "image an empty text": (row(image=""), "an empty file"),
    "image rubbish": (row(image=text(b"rubbish")), "not a picture"),
    "image cut short": (row(image=text(png()[:46])), "damaged"),
    "image of another format": (row(image=text(png((16, 16), "RGBA", "ICO"))), "not a picture of a known format"),
    "image a bomb": (row(image=text(png((30_000, 30_000), "1"))), "more than 89478485 pixels"),
    "images large together": (
        rows(*[{"image": text(png((800, 800)))}] * 2),
        "row 1: the pictures up to here have more than 1000000 pixels (UNFORGETTING_REQUEST_PIXELS); send fewer",
    ),
    "task unknown": (row(task="x"), NO_TASK),
    "task beyond": (row(task=2), f"row 0: no task 2; {NO_TASK} (or 0 to 1)"),
    "task negative": (row(task=-1), NO_TASK),
    "task true": (row(task=True), f"row 0: no task True; {NO_TASK}"),
    "task false": (row(task=False), f"row 0: no task False; {NO_TASK}"),
    "task true beside an index": (rows({"image": NUMBERS, "task": 0}, {"image": NUMBERS, "task": True}), "row 1"),
    "tasks true and false": (inputs({"image": [NUMBERS, NUMBERS], "task": [True, False]}), NO_TASK),
    "task one and a half": (row(task=1.5), NO_TASK),
    "task an index as text": (row(task="1"), NO_TASK),
    "task a list": (row(task=[0]), NO_TASK),
    "task a dictionary": (row(task={"a": 0}), NO_TASK),
    "task an empty text": (row(task=""), NO_TASK),
    "task huge": (row(task=10**30), NO_TASK),
    "task long": (row(task="x" * 1_000_000), NO_TASK),
    "task NUL": (row(task="\0"), NO_TASK),
    "tasks of another length": (inputs({"image": [NUMBERS], "task": [0, 1]}), ""),
}
KINDS: dict[str, tuple[str | bytes, str | None, int]] = {
    "no type": (row(), None, 400),
    "no json by its type": ("image,task\n1,2\n", "text/csv", 400),
    "an empty table": ("", "text/csv", 400),
    "no table": (b"\xff\x00", "text/csv", 400),
    "a file that is none": (b"PAR1junk", "application/vnd.apache.parquet", 400),
    "another type": ("<a/>", "text/xml", 415),
    "another encoding": (row(), "application/json; charset=latin-1", 415),
    "an unknown parameter": (row(), "application/json; x=y", 415),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.ASGITransport]:
    """MLflow's server in this process, with a model that can do without the task."""
    import mlflow
    from mlflow.pyfunc import scoring_server

    folder = tmp_path_factory.mktemp("requests")
    params = params_of(folder / "out", methods="finetune", seeds="0")
    prepare(params.benchmark, RAW, folder / "out/prepared", lambda line: None)
    learn(params, "finetune", 0, folder / "out", lambda event: None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("_MLFLOW_IS_IN_SERVING_ENVIRONMENT", "false")  # `init` sets it for good
        patch.setenv("UNFORGETTING_REQUEST_MEGABYTES", "2")
        patch.setenv("UNFORGETTING_REQUEST_PIXELS", "1000000")
        asked, caught = scoring_server.invocations, scoring_server._async_catch_mlflow_exception
        model = mlflow.pyfunc.load_model(str(saved(params, folder / "out", folder / "model", "finetune")[0]))
        yield httpx.ASGITransport(scoring_server.init(model), raise_app_exceptions=False)
        scoring_server.invocations, scoring_server._async_catch_mlflow_exception = asked, caught


def ask(server: httpx.ASGITransport, body: str | bytes, kind: str | None = JSON) -> tuple[int, str]:
    """Status and answer."""

    async def answer() -> httpx.Response:
        async with httpx.AsyncClient(transport=server, base_url="http://model") as client:
            headers = {} if kind is None else {"Content-Type": kind}
            return await client.post("/invocations", content=body, headers=headers, timeout=60)

    found = asyncio.run(answer())
    return found.status_code, found.text


@pytest.mark.parametrize("name", GOOD)
def test_what_is_right_is_answered(name: str, server: httpx.ASGITransport) -> None:
    status, said = ask(server, GOOD[name])
    assert status == 200, said
    for answer in json.loads(said)["predictions"]:
        assert sum(answer["probabilities"].values()) == pytest.approx(1)


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_request_is_refused_in_a_sentence(name: str, server: httpx.ASGITransport) -> None:
    body, words = BAD[name]
    status, said = ask(server, body)
    assert status == 400, said
    assert "Traceback" not in said
    assert "stack_trace" not in said
    message = json.loads(said)["message"]
    assert words in message
    assert 0 < len(message) <= 500
    assert "\n" not in message


@pytest.mark.parametrize("name", KINDS)
def test_what_comes_as_something_else_is_refused_too(name: str, server: httpx.ASGITransport) -> None:
    body, kind, expected = KINDS[name]
    status, said = ask(server, body, kind)
    assert status == expected, said
    assert "Traceback" not in said
    assert len(said) < 1000


@pytest.mark.parametrize("how", ["whole", "in parts"])
def test_a_request_that_is_too_large_is_refused_unread(how: str, server: httpx.ASGITransport) -> None:
    taken = 0

    async def parts() -> AsyncIterator[bytes]:
        nonlocal taken
        for _ in range(100):
            taken += 1
            yield b"x" * 100_000

    async def answer() -> httpx.Response:
        async with httpx.AsyncClient(transport=server, base_url="http://model") as client:
            content: Any = b"x" * 2_000_001 if how == "whole" else parts()
            return await client.post("/invocations", content=content, headers={"Content-Type": JSON}, timeout=60)

    found = asyncio.run(answer())
    assert found.status_code == 413
    assert "the request has more than 2 megabytes (UNFORGETTING_REQUEST_MEGABYTES)" in found.json()["message"]
    assert taken in (0, 21)


def test_health(server: httpx.ASGITransport) -> None:
    async def answer() -> list[httpx.Response]:
        async with httpx.AsyncClient(transport=server, base_url="http://model") as client:
            return [await client.get(path) for path in ("/health", "/ping")]

    assert [found.status_code for found in asyncio.run(answer())] == [200, 200]


@pytest.mark.parametrize("value", ["0", "-1", "many", "", "1.5"])
def test_a_limit_that_is_none(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.exceptions import MlflowException

    from flows.serving import pyfunc_model

    monkeypatch.setenv(pyfunc_model.MEGABYTES, value)
    with pytest.raises(MlflowException, match=f"UNFORGETTING_REQUEST_MEGABYTES: '{value}' is no whole number above 0"):
        pyfunc_model.limit(pyfunc_model.MEGABYTES)
