"""A params file laid over those it extends, and the settings of a command line over that.

Of the schema this needs only the names of methods, which get one spelling everywhere, so that `methods.online-ewc` lies
over `online_ewc`. For each key it remembers where the key was written.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cl.embedded import studies
from cl.errors import UserError, brief
from cl.names import method_name, names_in
from cl.paths import expanded
from cl.renamed import KEYS, say, with_new_keys
from cl.yaml12 import Plain, empty, load, named, odd, parse

LONGEST_CHAIN = 20
SECRETS = ("tracking.uri", "execution.address")
"""Keys whose values may hold a password, so no message shows them."""
DEEPEST_KEY = 10


@dataclass(frozen=True)
class Origin:
    """Where the keys of some params were written: a file, or for what was laid over it, the option."""

    source: str = field(default="params", compare=False)
    laid: Mapping[str, str] = field(default_factory=dict, compare=False)

    def of(self, place: str) -> str:
        """The file or option that set the key, or the last that set anything below or above it."""
        near = [at for key, at in self.laid.items() if f"{place}.".startswith(f"{key}.") or key.startswith(f"{place}.")]
        return near[-1] if place and near else self.source

    def written(self, place: str) -> str:
        """The key as it was written: a knob of a method stands under `methods` or under `others`."""
        for a, b in (("methods.", "others."), ("others.", "methods.")):
            if place.startswith(a) and place not in self.laid and b + place.removeprefix(a) in self.laid:
                return b + place.removeprefix(a)
        return place


class Layers:
    """The settings from all files and options so far."""

    def __init__(self, path: Path) -> None:
        """From the file and all that it extends; raises `UserError`."""
        self.tree: dict[str, Any] = {}
        self.laid: dict[str, str] = {}
        self.everything = False
        """Whether every method is meant (`methods: all`), not just those that are named."""
        for file, written in reversed(_chain(path)):
            tree = with_new_keys(written, named(file))
            _canonical(tree, named(file))
            if "methods" in tree:
                self.everything = False
            if tree.get("methods") == "all":
                del tree["methods"]
                self.all_methods()
            self.tree = merged(self.tree, tree)
            self.laid |= dict.fromkeys(_leaves(tree), named(file))

    def all_methods(self) -> None:
        """Every method there is, each with the knobs it has had so far."""
        self.everything = True
        methods, others = self.tree.pop("methods", {}), self.tree.get("others", {})
        if empty(others):
            others = {}
        if isinstance(methods, dict) and isinstance(others, dict):
            self.tree["others"] = merged(others, methods)

    def override(self, given: str, text_only: bool, label: str) -> None:
        """Lay `key.path=value` over; a key that is `text_only` takes what looks like a list as it stands."""
        parts, text = path_of(given), given.partition("=")[2]
        if (new := KEYS.get(".".join(parts))) is not None:
            say("--set", ".".join(parts), new)
            parts = new.split(".")
        if parts[0] in ("methods", "others") and len(parts) > 1:
            try:
                parts[1] = method_name(parts[1])
            except ValueError as error:
                raise UserError(f"{label}: {parts[0]}: {error}") from None
        value = _value(text, text_only, label)
        if parts == ["methods"]:
            self.everything = False
            if value == "all":
                return self.all_methods()
        tree = self.tree
        for depth, name in enumerate(parts[:-1]):
            below = tree.setdefault(name, {})
            if empty(below):
                below = tree[name] = {}
            if not isinstance(below, dict):
                raise UserError(f"{label}: {'.'.join(parts[: depth + 1])} is a value, not a section")
            tree = below
        tree[parts[-1]] = value
        if parts[0] in ("methods", "others"):
            _canonical(self.tree, label)
        self.laid.pop(".".join(parts), None)
        self.laid[".".join(parts)] = label
        return None

    def choose(self, methods: Iterable[str] | None) -> None:
        """Settle which methods are run, by name or as the layers say, each with all the knobs it was given.

        The others stay under `others`, so that what stands there is checked too. Raises `UserError`.
        """
        names = None if methods is None else spelled_methods(methods)
        given, others = self.tree.get("methods", {}), self.tree.get("others", {})
        if empty(others):
            others = {}
        if not isinstance(given, dict) or not isinstance(others, dict):  # which is said when all is checked
            return
        known = merged(others, given)
        if names is None:
            names = names_in("methods") if self.everything else list(given)
        if "methods" in self.tree or names:
            self.tree["methods"] = {name: known.get(name, {}) for name in names}
        self.tree["others"] = {name: knobs for name, knobs in known.items() if name not in names}


def path_of(given: str) -> list[str]:
    """The parts of the key of `key.path=value`; raises `UserError` where it does not read so."""
    key, equals, _ = given.partition("=")
    parts = [part.strip() for part in key.split(".")]
    if not equals or not all(parts) or len(parts) > DEEPEST_KEY:
        raise UserError(f"{label_of(given)}: has to read key.path=value, for instance training.epochs=10")
    return parts


def label_of(given: str) -> str:
    """An override as messages name it."""
    key, equals, value = given.partition("=")
    hidden = equals and (secret(key.strip()) or key.strip().startswith("tracking."))  # however uri is misspelled
    return f"--set {brief(key)}{equals}{'***' if hidden else brief(value)}"


def secret(place: str) -> bool:
    """Whether what stands at a key, above or below it, may hold a password."""
    return any(f"{a}.".startswith(f"{b}.") for key in SECRETS for a, b in ((key, place), (place, key)) if b)


def _value(text: str, text_only: bool, label: str) -> Any:
    """What an override gives: a list or mapping in brackets, something in quotes, else the text as it stands."""
    word = text.strip()
    if not word:
        raise UserError(f"{label}: gives no value; write null for none")
    if word[0] in "[{" and not text_only:
        try:
            return parse(word)
        except ValueError as error:
            raise UserError(f"{label}: not a YAML value: {error}") from None
    if word[0] in "'\"" and len(word) > 1 and word[-1] == word[0]:
        try:
            quoted = parse(word)
        except ValueError:  # quotes that are part of the text
            return Plain(text)
        if isinstance(quoted, str):
            return quoted
    return Plain(text)


def merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`over` laid over `base`, key by key down to what is no mapping."""
    both = {
        key: merged(base[key], over[key])
        for key in base.keys() & over.keys()
        if isinstance(base[key], dict) and isinstance(over[key], dict)
    }
    return {**base, **over, **both}


def _canonical(tree: dict[str, Any], source: str) -> None:
    """Spell the names of methods in one way; raises `UserError` for one that is unknown, or stands twice."""
    for section in ("methods", "others"):
        written = tree.get(section)
        spelled: dict[str, str] = {}
        if not isinstance(written, dict):
            continue
        for name in written:
            try:
                canonical = method_name(name)
            except ValueError as error:
                raise UserError(f"{source}: {section}: {error}") from None
            if canonical in spelled:
                raise UserError(f"{source}: {section}: {canonical} stands twice, as {spelled[canonical]} and {name}")
            spelled[canonical] = name
        tree[section] = {canonical: written[name] for canonical, name in spelled.items()}


def spelled_methods(methods: Iterable[str]) -> list[str]:
    """The names that `--methods` gives, in the one spelling; raises `UserError`."""
    canonical_names: list[str] = []
    for name in methods:
        try:
            canonical = method_name(name)
        except ValueError as error:
            raise UserError(f"--methods: {error}") from None
        if canonical in canonical_names:
            raise UserError(f"--methods: names {canonical} twice")
        canonical_names.append(canonical)
    return canonical_names


def _leaves(tree: dict[str, Any], above: str = "") -> Iterator[str]:
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{above}{key}.")
        else:
            yield f"{above}{key}"


def _chain(path: Path) -> list[tuple[Path, dict[str, Any]]]:
    """The file and those it extends, each with its mapping."""
    chain: list[tuple[Path, dict[str, Any]]] = []
    resolved: set[str] = set()
    while True:
        tree = _mapping(path)
        chain.append((path, tree))
        resolved.add(os.path.realpath(path))
        base = tree.pop("extends", Plain(""))
        if empty(base):
            return chain
        try:
            under = path.parent / expanded(base) if isinstance(base, str) and not odd(base) else path
        except ValueError as error:
            raise UserError(f"{named(path)}: extends: {error}") from None
        if os.path.realpath(under) in resolved:
            raise UserError(
                f"{named(path)}: extends: has to be the path of a file, relative to this one; files may not extend "
                "each other in a circle"
            )
        if len(chain) == LONGEST_CHAIN:
            raise UserError(f"{named(path)}: extends: a chain of more than {LONGEST_CHAIN} files")
        path = under


def _mapping(path: Path) -> dict[str, Any]:
    try:
        tree = load(path)
    except OSError as error:
        siblings = [other.name for other in path.parent.glob("*.yaml")]
        near = [path.parent / name for name in difflib.get_close_matches(path.name, siblings, n=1)]
        near = near or [Path("studies", study.name) for study in studies() if study.stem == path.stem]
        remedy = (
            f"did you mean {named(near[0])}?" if near else "give one with --params; `unforgetting studies` lists some"
        )
        raise UserError(f"{named(path)}: cannot be read ({error.strerror}); {remedy}") from None
    if empty(tree):
        return {}
    if not isinstance(tree, dict):
        raise UserError(f"{named(path)}: has to be a mapping of sections (benchmark, model, training, ...)")
    return tree
