"""Random forests, as packed rows hold them, and attention along them by its definition."""

import numpy as np


def grow_forest(tokens: int, rng) -> tuple[np.ndarray, np.ndarray]:
    """How long each token of a row is visible, and where it stands: trees with random branches."""
    visible_to, positions = np.zeros(tokens, np.int32), np.zeros(tokens, np.int32)

    def grow(start, end, position):
        stem = min(end - start, int(rng.integers(1, 60)))
        visible_to[start : start + stem] = end
        positions[start : start + stem] = position + np.arange(stem)
        start += stem
        while start < end:  # the branches
            size = min(end - start, int(rng.integers(1, 90)))
            grow(start, start + size, position + stem)
            start += size

    for start in range(0, tokens - 20, 120):  # and padding behind
        grow(start, min(start + 120, tokens - 20), 0)
    return visible_to, positions


def packed_in_float64(query, keys, values, weight, positions, packing, prefix, scoring):
    """Attention of packed rows, and the gradients of its sum times `weight`, by the definition."""
    query, weight = (np.asarray(x, np.float64).swapaxes(1, 2) for x in (query, weight))
    keys, values = (
        np.concatenate([np.broadcast_to(before, (len(own), *before.shape[1:])), own], axis=2)
        for before, own in zip(prefix, (keys, values), strict=True)
    )
    group, ahead = query.shape[1] // keys.shape[1], prefix[0].shape[2]
    keys, values = (np.asarray(x, np.float64).repeat(group, axis=1) for x in (keys, values))
    order = np.arange(query.shape[2])
    seen = (order <= order[:, None]) & (order[:, None] < packing.visible_to[:, None])
    of_prefix = np.repeat(packing.uses_prefix[:, :, None], ahead, axis=2)
    seen = np.concatenate([of_prefix, seen], axis=2)
    if scoring.window:
        places = np.broadcast_to(np.arange(ahead), (len(positions), ahead))
        places = np.concatenate([places, positions], axis=1)
        seen &= positions[:, :, None] - places[:, None] < scoring.window
    score, slope_of_cap = scoring.scale * query @ keys.swapaxes(2, 3), 1.0
    if scoring.softcap:
        bent = np.tanh(score / scoring.softcap)
        score, slope_of_cap = scoring.softcap * bent, 1 - bent**2
    weights = np.where(seen[:, None], np.exp(score - score.max(axis=-1, keepdims=True)), 0.0)
    total = weights.sum(axis=-1, keepdims=True)
    share = weights / np.where(total, total, 1.0)
    mixed = share @ values
    toward = weight @ values.swapaxes(2, 3)
    slope = share * (toward - np.sum(share * toward, axis=-1, keepdims=True))
    slope *= scoring.scale * slope_of_cap

    def of_kv_heads(x):
        return x.reshape(len(x), -1, group, *x.shape[2:]).sum(axis=2)

    k_grad = of_kv_heads(slope.swapaxes(2, 3) @ query)
    v_grad = of_kv_heads(share.swapaxes(2, 3) @ weight)
    own, before = (slice(ahead, None), slice(None, ahead))
    return (
        mixed.swapaxes(1, 2), (slope @ keys).swapaxes(1, 2),
        k_grad[:, :, own], v_grad[:, :, own],
        k_grad[:, :, before].sum(axis=0, keepdims=True),
        v_grad[:, :, before].sum(axis=0, keepdims=True),
    )  # fmt: skip
