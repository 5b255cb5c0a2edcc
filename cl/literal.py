"""What a scalar stands for under its key: a key of text takes it as it stands, a key of numbers as decimals.

So `010` is ten, as DVC reads it too, or the name `010`; `1:30` is never a number and `yes` never a truth value. The
types of knobs stand in the methods' own files, so a knob takes what the text looks like: a number, true or false, or
text.
"""

from __future__ import annotations

import re
import types
from collections.abc import Collection, Iterable, Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from cl.yaml12 import NULLS, Plain, odd

TRUTHS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
WHOLE = re.compile(r"[-+]?[0-9]+")
MOST_DIGITS = 4000
"""Python makes no number of more than 4300."""
NUMBER = re.compile(
    r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
ANYTHING: Collection[Any] = (types.NoneType, bool, int, float, str)
Place = tuple[str, ...]


class Unclear(ValueError):
    """The text at this place can be read in two ways, or in none."""

    def __init__(self, place: Place, message: str) -> None:
        super().__init__(message)
        self.place = place


def kinds(annotation: Any) -> Collection[Any]:
    """The types that a value of this annotation may have; of nothing known, all."""
    return tuple(_kinds(annotation)) if annotation is not Any else ANYTHING


def _kinds(annotation: Any) -> Iterator[Any]:
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _kinds(get_args(annotation)[0])
    elif origin in (Union, types.UnionType):
        for member in get_args(annotation):
            yield from _kinds(member)
    else:
        yield Literal if origin is Literal else annotation


def below(annotation: Any, key: str | None) -> Any:
    """The annotation of what stands below a key; None: of a list's items."""
    for kind in kinds(annotation):
        if get_origin(kind) is list and key is None:
            return get_args(kind)[0]
        if get_origin(kind) is dict and key is not None:
            return get_args(kind)[1]
        if isinstance(kind, type) and issubclass(kind, BaseModel) and key in kind.model_fields:
            return kind.model_fields[key].annotation
    return Any


def text_only(annotation: Any, parts: Iterable[str]) -> bool:
    """Whether the key of these parts takes nothing but text, so that `[x]` is no list there."""
    for part in parts:
        annotation = below(annotation, part)
    return set(kinds(annotation)) <= {str, types.NoneType}


def settled(tree: Any, annotation: Any, place: Place = ()) -> Any:
    """A parsed tree with each of its scalars as what its key takes; one that fits in no way stays, to be refused.

    Raises `Unclear`.
    """
    if isinstance(tree, dict):
        for key in tree:
            if (what := odd(key)) is not None:
                raise Unclear((*place, key), f"a key has to be text without {what}")
        return {key: settled(value, below(annotation, key), (*place, key)) for key, value in tree.items()}
    if isinstance(tree, list):
        return [settled(value, below(annotation, None), (*place, str(i))) for i, value in enumerate(tree)]
    if isinstance(tree, Plain):
        tree = _meant(tree, kinds(annotation), place)
    if isinstance(tree, str) and (what := odd(tree)) is not None:
        raise Unclear(place, f"has to be text without {what}")
    return tree


def _meant(text: Plain, wanted: Collection[Any], place: Place) -> Any:
    word = text.strip()
    if types.NoneType in wanted and word in NULLS:
        if word == "~" and str in wanted and wanted is not ANYTHING:
            raise Unclear(place, "~ alone is null in YAML; write null for none, or put it in quotes")
        return None
    if bool in wanted and word in TRUTHS:
        return TRUTHS[word]
    if int in wanted and WHOLE.fullmatch(word):
        return int(word) if len(word) <= MOST_DIGITS else word
    if float in wanted and NUMBER.fullmatch(word):
        return float(word.lower().replace(".inf", "inf").replace(".nan", "nan"))
    if str in wanted:
        return str(text)
    return word if Literal in wanted else _meant(text, ANYTHING, place)
