"""Texts that end a response, looked for in what its tokens read."""

from collections.abc import Callable, Sequence


def cut_at_text(
    decode: Callable[[Sequence[int]], str] | None,
    tokens: Sequence[int],
    stops: Sequence[str],
    new: int,
) -> int | None:
    """How many tokens stay when the response holds a text that ends it; None where it holds none.

    Args:
      decode: text of tokens; not asked without `stops`.
      tokens: of the response so far.
      stops: the texts.
      new: so many tokens at the end have not been looked at before.
    """
    if not stops:
        return None

    def holds(count: int) -> bool:
        text = decode(tokens[:count])
        return any(stop in text for stop in stops)

    if not holds(len(tokens)):
        return None
    first = max(0, len(tokens) - new)
    return next(count for count in range(first, len(tokens) + 1) if holds(count))
