"""What a run tells while it learns: one line of JSON an event on its standard output."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

from typing_extensions import TypedDict

from cl.results import TaskResult


class TrialEvent(TypedDict):
    """A trial has ended."""

    event: Literal["trial"]
    phase: str
    index: int
    tasks: int
    point: dict[str, Any]
    """The hyperparameters that were tried."""
    accuracy: float


class TaskEvent(TaskResult):
    """A task is learned."""

    event: Literal["task"]
    index: int
    tasks: int
    average_accuracy: float
    decayed: dict[str, Any]
    """The knobs that decay, at the values that were kept."""


class ResumedEvent(TypedDict):
    """A task was learned before; the run goes on after it."""

    event: Literal["resumed"]
    index: int
    tasks: int


class FinishedEvent(TypedDict):
    """The whole run was learned before."""

    event: Literal["finished before"]


class Message(TypedDict):
    """A warning, or the reason why the run ended."""

    event: Literal["warning", "error"]
    message: str


Event: TypeAlias = TrialEvent | TaskEvent | ResumedEvent | FinishedEvent | Message
Say: TypeAlias = Callable[[Event], None]
FINISHED_BEFORE: FinishedEvent = {"event": "finished before"}


def warning(message: str) -> Message:
    """The event of a warning."""
    return {"event": "warning", "message": message}


def error(message: str) -> Message:
    """The event of the reason why a run ended."""
    return {"event": "error", "message": message}


def line_of(event: Event) -> str:
    """The line on which a run prints the event."""
    return json.dumps(event)


def event_of(line: str | bytes) -> Event | None:
    """The event on this line of what a run has printed; None where a library printed it."""
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and isinstance(event.get("event"), str) else None  # type: ignore[return-value]
