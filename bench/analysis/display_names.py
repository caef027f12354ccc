"""Short names that readers can tell apart, for the canonical texts of attacks and defenses."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from bench.analysis.threat_models import VictimThreatModel
from bench.calls import format_call, parse_call
from bench.tasks import Cell

_ALWAYS: dict[str, Callable[[Any], str]] = {
    "sampling_strategy": str,
    "use_probability": lambda value: "on probabilities" if value else "on labels",
}
"""Parameters of ART's attacks that every name contains, in words."""


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
        else _short(name, values, _distinguishing(values, list(family.values())), limit)
        for name, family in siblings.items()
        for text, values in family.items()
    }


def _distinguishing(values: Mapping[str, Any], family: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the fewest keys, the coarsest first, by which ``values`` differs from all others."""
    spread = {key: len({repr(other.get(key)) for other in family}) for key in values}
    chosen, left = [], [other for other in family if other != values]
    for key in sorted(values, key=lambda key: (spread[key], list(values).index(key))):
        apart = [other for other in left if other.get(key) != values[key]]
        if apart:
            chosen.append(key)
            left = [other for other in left if other.get(key) == values[key]]
    # Later keys may have made an earlier one redundant.
    for key in list(chosen):
        fewer = [kept for kept in chosen if kept != key]
        if all(any(other.get(kept) != values[kept] for kept in fewer) for other in family if other != values):
            chosen = fewer
    return [key for key in values if key in chosen]


def _short(name: str, values: Mapping[str, Any], keys: Sequence[str], limit: int) -> str:
    kept = {key: values[key] for key in keys if key not in _ALWAYS}
    words = [_ALWAYS[key](values[key]) for key in _ALWAYS if key in values]
    call = format_call(name, kept)
    if limit and call.endswith(")"):
        call = f"{call[:-1]}, …)" if len(kept) < len(values) else call
    head, _, rest = call.partition("(")
    before = [word for word in words if not word.startswith("on ")]
    after = [word for word in words if word.startswith("on ")]
    return " ".join([head, *before, *([f"({rest}"] if rest else []), *after]) if words else call


TRAINED = " trained by "
"""Separates an attack from its training configuration, where that is not the default."""


def attack_of(cell: Cell) -> str:
    """Return a cell's attack, with its training configuration where that is not the default."""
    return cell.attack if cell.training == "rule" else f"{cell.attack}{TRAINED}{cell.training}"


def attack_names(attacks: Iterable[str]) -> dict[str, str]:
    """Return a short name for each text of :func:`attack_of`: those of attack and training configuration."""
    parts = {text: text.partition(TRAINED) for text in attacks}
    plugins = short_names(attack for attack, _, _ in parts.values())
    configurations = short_names({how for _, _, how in parts.values() if how}, limit=40)
    return {
        text: f"{plugins[attack]}{between}{configurations[how] if how else ''}"
        for text, (attack, between, how) in parts.items()
    }


def merged_name(names: Sequence[str]) -> str:
    """Return one name for equal attacks, with the part that they share once.

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
    """Return what a name under ``threat`` ends with if the attack was run under the weaker ``source``.

    Empty if both are the same threat model.
    """
    parts = [f"sees {source.shows}"] if source.shows != threat.shows else []
    if source.knowledge != threat.knowledge:
        known = {"none": "non-adaptive", "family": "parameters unknown"}
        parts.append(known.get(source.knowledge, "parameters known"))
    return f" ({', '.join(parts)})" if parts else ""
