"""Call a URL whenever a night fails: `python -m flows.notify URL`, with `PREFECT_API_URL` set.

The command makes, or changes, a Webhook block and an automation on the Prefect server, which calls the URL from then
on; both can be seen, switched off and changed in the UI. The body is JSON: `run`, `state`, `message` and `url` of the
flow run. The block keeps the URL encrypted, so it may hold a token.
"""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Mapping
from typing import Any

from cl import cli
from cl.errors import UserError
from cl.redact import encoded, without_password
from flows.deadline import check_answer, finish, within
from flows.engine.with_prefect import WithPrefect, configured_engine

NAME = "nightly-failed"
SECONDS = 30.0
"""For all requests to the server together."""
BODY = """{
  "run": {{ flow_run.name | tojson }},
  "state": {{ flow_run.state.name | tojson }},
  "message": {{ flow_run.state.message | tojson }},
  "url": {{ flow_run | ui_url | tojson }}
}"""


def notify(url: str, deployment: str = "nightly/nightly") -> str:
    """Set up the block and the automation; returns the automation's id. Raises `UserError` where it cannot be."""
    from prefect.automations import Automation
    from prefect.blocks.webhook import Webhook
    from prefect.client.orchestration import get_client
    from prefect.events import EventTrigger
    from prefect.events.actions import CallWebhook
    from prefect.exceptions import ObjectNotFound

    with get_client(sync_client=True) as client:
        try:
            watched = client.read_deployment_by_name(deployment).id
        except ObjectNotFound:
            raise UserError(f"no deployment {deployment} on the server: run `make serve` first") from None
        for known in client.read_automations_by_name(NAME):
            client.delete_automation(known.id)
    # From a server of one's own, addresses of this machine and of the company are just what is to be called.
    block: Any = Webhook(url=url, method="POST", allow_private_urls=True)
    identity = block.save(NAME, overwrite=True)
    made: Any = Automation(
        name=NAME,
        description="Calls the webhook block of the same name when a night fails or crashes.",
        trigger=EventTrigger(
            expect={"prefect.flow-run.Failed", "prefect.flow-run.Crashed"},
            match={"prefect.resource.id": "prefect.flow-run.*"},
            match_related={
                "prefect.resource.id": f"prefect.deployment.{watched}",
                "prefect.resource.role": "deployment",
            },
            posture="Reactive",
            threshold=1,
        ),
        actions=[CallWebhook(block_document_id=identity, payload=BODY)],
    )
    return str(made.create().id)


def post(url: str, body: Mapping[str, str]) -> None:
    """POST a message with the keys of `BODY`; raises `ConnectionError`, which does not name the URL."""
    check_answer(url, SECONDS, json.dumps(dict(body)).encode())


def is_url(text: str) -> bool:
    """Whether something can be POSTed there."""
    return re.match(r"https?://[^/\s]+", text) is not None


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    made = argparse.ArgumentParser(prog="python -m flows.notify", description=main.__doc__)
    made.add_argument("url", help="the URL to which the message is POSTed")
    return made


def main() -> int:
    """Make the Prefect server call a URL whenever a night fails."""
    given = parser().parse_args()
    if not is_url(given.url):
        raise UserError("the URL has to begin with http:// or https:// and the name of a host")
    engine = configured_engine()
    if not isinstance(engine, WithPrefect):
        raise UserError(
            "PREFECT_API_URL has to name a Prefect server that answers; `make serve` starts one and says which"
        )
    os.environ["PREFECT_API_URL"] = encoded(engine.url or "")  # for Prefect's own settings
    try:
        made = within(SECONDS, lambda: notify(given.url))
    except UserError:
        raise
    except Exception as error:  # Prefect's client raises many kinds where a server fails or answers nonsense
        said = without_password(" ".join(str(error).split()).replace(given.url, "the URL"))[:200]
        where = without_password(engine.url or "")
        raise UserError(
            f"the Prefect server at {where} has not accepted the automation ({type(error).__name__}: {said})"
        ) from None
    print(f"automation {NAME}: {made}")
    return 0


if __name__ == "__main__":
    finish(cli.guarded(main))
