"""Short names that readers can tell apart, for the canonical texts of attacks and defenses."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from bench.analysis.threat_models import VictimThreatModel
from bench.calls import format_call, parse_call

_SAID: dict[str, Callable[[Any], str]] = {
    "sampling_strategy": str,
    "use_probability": lambda value: "on probabilities" if value else "on labels",
}
"""Parameters of ART's attacks that are always said, in words."""


def short_names(texts: Iterable[str], limit: int = 0) -> dict[str, str]:
    """Return a name for each text: the plugin's, with the parameters that set it apart from the others.

    Texts of up to ``limit`` characters are kept whole.
    """
    siblings: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
    for text in dict.fromkeys(texts):
        name, values = parse_call(text)
        siblings[name][text] = values
    return {
        text: text
        if len(text) <= limit
        else _short(name, values, _telling(values, list(family.values())), limit)
        for name, family in siblings.items()
        for text, values in family.items()
    }


def _telling(values: Mapping[str, Any], family: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the fewest keys, the coarsest first, by which ``values`` differs from all others."""
    spread = {key: len({repr(other.get(key)) for other in family}) for key in values}
    told, left = [], [other for other in family if other != values]
    for key in sorted(values, key=lambda key: (spread[key], list(values).index(key))):
        apart = [other for other in left if other.get(key) != values[key]]
        if apart:
            told.append(key)
            left = [other for other in left if other.get(key) == values[key]]
    # A key that later ones made needless goes again.
    for key in list(told):
        fewer = [kept for kept in told if kept != key]
        if all(any(other.get(kept) != values[kept] for kept in fewer) for other in family if other != values):
            told = fewer
    return [key for key in values if key in told]


def _short(name: str, values: Mapping[str, Any], told: Sequence[str], limit: int) -> str:
    kept = {key: values[key] for key in told if key not in _SAID}
    said = [_SAID[key](values[key]) for key in _SAID if key in values]
    call = format_call(name, kept)
    if limit and call.endswith(")"):
        call = f"{call[:-1]}, …)" if len(kept) < len(values) else call
    head, _, rest = call.partition("(")
    before = [word for word in said if not word.startswith("on ")]
    after = [word for word in said if word.startswith("on ")]
    return " ".join([head, *before, *([f"({rest}"] if rest else []), *after]) if said else call


TRAINED = " trained by "
"""Stands between an attack and a training recipe that is not the rule."""


def attack_of(spec: Mapping[str, Any]) -> str:
    """Return the attacker in a cell's spec: the attack, and how it trains where not by the rule."""
    how = spec.get("training", "rule")
    return str(spec["attack"]) if how == "rule" else f"{spec['attack']}{TRAINED}{how}"


def attack_names(attackers: Iterable[str]) -> dict[str, str]:
    """Return :func:`short_names` of attackers: of their attacks and of their recipes, each among its like."""
    parts = {text: text.partition(TRAINED) for text in attackers}
    attacks = short_names(attack for attack, _, _ in parts.values())
    recipes = short_names({how for _, _, how in parts.values() if how}, limit=40)
    return {
        text: f"{attacks[attack]}{between}{recipes[how] if how else ''}"
        for text, (attack, between, how) in parts.items()
    }


def merged_name(names: Sequence[str]) -> str:
    """Return one name for attackers that make the same copies: what they share is said once.

    >>> joined(["copycat on labels", "knockoff random on labels", "labels"])
    'labels = copycat = knockoff random on labels'
    """
    if len(names) == 1:
        return names[0]
    heads: dict[str, list[str]] = defaultdict(list)
    for name in dict.fromkeys(names):
        head, tail = _split(name)
        heads[tail].append(head)
    parts = [f"{' = '.join(heads[tail])} {tail}".strip() for tail in sorted(heads)]
    return " = ".join(parts)


def _split(name: str) -> tuple[str, str]:
    head, found, tail = name.rpartition(" on ")
    return (head, f"on {tail}") if found else (name, "")


def weaker_note(source: VictimThreatModel, threat: VictimThreatModel) -> str:
    """Return what follows an attacker's name where ``threat`` imitates the weaker ``source``; "" for one."""
    parts = [f"sees {source.shows}"] if source.shows != threat.shows else []
    if source.knowledge != threat.knowledge:
        known = {"none": "does not know the defense", "family": "knows the kind of defense"}
        parts.append(known.get(source.knowledge, "knows the defense and its parameters"))
    return f" (as one who {' and '.join(parts)})" if parts else ""
