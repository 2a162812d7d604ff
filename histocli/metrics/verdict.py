"""The one sentence that a comparison of predictions ends with, which follows its p-values.

Panoptic quality decides. With more than two predictions the p-values of all pairs are adjusted by
the method of Holm (1979), so that a difference is not found by comparing often.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from histocli.metrics.summary import ALPHA, Difference

DECIDES, DECIDES_IN_WORDS = "pq", "PQ"


@dataclass(frozen=True)
class Versus:
    """Two predictions by their numbers, and the second minus the first in ``DECIDES``."""

    first: int
    second: int
    difference: Difference


@dataclass(frozen=True)
class Verdict:
    """Which prediction is better, or that none is shown to be."""

    best: int
    """Number of the prediction with the highest mean."""
    beaten: tuple[int, ...]
    """Numbers of the predictions that it is shown to be better than."""
    p_values: tuple[float, ...]
    """Adjusted p-values of the pairs, in their order."""
    text: str


def judge(names: Sequence[str], means: Sequence[float], pairs: Sequence[Versus]) -> Verdict:
    """Return the verdict on predictions with these names and mean scores, given all their pairs."""
    best = max(range(len(names)), key=lambda number: (means[number], -number))
    adjusted = holm([each.difference.p_value for each in pairs])
    too_few = all(each.difference.ci95 is None for each in pairs)
    against = {
        each.first + each.second - best: (each, p)
        for each, p in zip(pairs, adjusted, strict=True)
        if best in (each.first, each.second)
    }
    beaten = tuple(
        other
        for other, (each, p) in sorted(against.items())
        if p < ALPHA and each.difference.mean * (1 if each.second == best else -1) > 0
    )
    if too_few:
        images = pairs[0].difference.images
        text = (
            f"too few to tell: over {images} images, fewer than six independent ones, "
            "no difference can be shown"
        )
    elif len(names) == 2:
        text = _of_two(names, pairs[0], best, shown=bool(beaten))
    else:
        text = _of_many(names, best, beaten)
    return Verdict(best, beaten, tuple(adjusted), text)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for the number of tests (Holm 1979).

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def _of_two(names: Sequence[str], pair: Versus, best: int, *, shown: bool) -> str:
    """Return the sentence on two predictions: the higher minus the lower one."""
    other, sign = 1 - best, 1 if pair.second == best else -1
    found = pair.difference
    edges = sorted(sign * edge for edge in found.ci95 or (0.0, 0.0))
    numbers = (
        f"{DECIDES_IN_WORDS} {sign * found.mean:+.3f} (95 % {edges[0]:+.3f} to {edges[1]:+.3f}, "
        f"p {p_text(found.p_value)}, paired over {found.images} images)"
    )
    if shown:
        return f"{names[best]} is better than {names[other]}: {numbers}"
    return f"no difference is shown; {names[best]} against {names[other]}: {numbers}"


def _of_many(names: Sequence[str], best: int, beaten: Sequence[int]) -> str:
    head = f"{names[best]} has the highest {DECIDES_IN_WORDS}"
    others = [number for number in range(len(names)) if number != best and number not in beaten]
    parts = []
    if beaten:
        parts.append("is better than " + _listed([names[number] for number in beaten]))
    if others:
        parts.append("is not shown to be better than " + _listed([names[n] for n in others]))
    return f"{head}; it {' and '.join(parts)} (p adjusted for all pairs, Holm)"


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def p_text(p_value: float) -> str:
    """Write a p-value with its sign: ``= 0.070`` or ``< 0.001``."""
    return "< 0.001" if p_value < 0.001 else f"= {p_value:.3f}"
