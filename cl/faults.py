"""What is wrong in params.yaml, in sentences."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ValidationError

from cl.errors import brief, shown
from cl.literal import below
from cl.names import closest
from cl.overlay import Origin, secret

MOST_FAULTS = 5
WORDS = {
    "missing": "is required",
    "too_short": "has to hold at least one item",
    "model_type": "has to be a section with keys of its own",
    "int_type": "has to be an integer, in decimal digits",
    "float_type": "has to be a number, such as 0.1 or 1e-3",
    "bool_type": "has to be true or false",
    "string_type": "has to be text",
    "list_type": "has to be a list, such as [1, 2]",
    "dict_type": "has to be a mapping, such as {strength: 1.0}",
}
"""What pydantic says less plainly, by the type of its fault."""


def in_sentences(error: ValidationError, schema: type[BaseModel], origin: Origin) -> str:
    """One sentence for each of the first few faults, behind the file or the option that it is in."""
    faults: dict[str, dict[str, None]] = {}
    for fault in error.errors()[:MOST_FAULTS]:
        place = origin.written(".".join(str(part) for part in fault["loc"]))
        faults.setdefault(origin.of(place), {})[_sentence(place, fault, schema)] = None
    more = f"; and {error.error_count() - MOST_FAULTS} more" if error.error_count() > MOST_FAULTS else ""
    return "; ".join(f"{where}: {'; '.join(sentences)}" for where, sentences in faults.items()) + more


def _sentence(place: str, fault: Any, schema: type[BaseModel]) -> str:
    key = brief(place)
    if fault["type"] == "extra_forbidden":
        section: Any = schema
        for part in fault["loc"][:-1]:
            section = below(section, part)
        return f"{key}: unknown key; {closest(str(fault['loc'][-1]), section.model_fields)}"
    message = WORDS.get(fault["type"]) or fault["msg"].removeprefix("Value error, ")
    if fault["type"] in {"value_error", "missing"} or secret(place):
        return f"{key}: {message}" if key else message
    return f"{key}: {message}, not {shown(fault['input'])}"
