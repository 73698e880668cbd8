"""Which of several methods no other beats in both quality and cost."""

from collections.abc import Sequence


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Places of the (cost, quality) that no other beats in one and is as good as in the other.

    Equal points stand beside each other.
    """
    return [
        place
        for place, (cost, quality) in enumerate(points)
        if not any(c <= cost and q >= quality and (c < cost or q > quality) for c, q in points)
    ]
