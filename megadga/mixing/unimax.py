"""UniMax: as even as a cap on repetitions allows. Knows sizes and a budget, no measurement."""

import numpy as np

from megadga.arrays import FloatArray, IntArray


def unimax_weights(tokens: IntArray, *, budget: float, max_epochs: float) -> FloatArray:
    """Return the most even mixture in which no domain is seen more than ``max_epochs`` times.

    Algorithm 1 of Chung et al. (arXiv 2304.09151), for tokens instead of characters: from the
    smallest domain to the largest, each gets an equal share of what is left of the budget, but no
    more than ``max_epochs * tokens``. That is ``min(max_epochs * tokens, level)`` with the one
    level at which all of the budget is handed out. A budget above ``max_epochs`` times all tokens
    is cut to it: then all domains are at the cap, and the weights are proportional.

    The cap holds for a run of ``budget`` tokens at constant weights.

    Args:
        tokens: Tokens of each domain, not negative and not all 0, shape ``(K,)``. A domain with
            none gets weight 0.
        budget: Tokens of the whole run, above 0.
        max_epochs: Largest number of passes over a domain, above 0.

    Returns:
        Weights that sum to 1, shape ``(K,)``.

    Raises:
        ValueError: If a value is out of range.
    """
    for name, value in (("budget", budget), ("max_epochs", max_epochs)):
        if not 0.0 < value < np.inf:
            raise ValueError(f"{name}: expected a finite number > 0, found {value}")
    sizes = np.asarray(tokens, dtype=np.float64)
    if sizes.ndim != 1 or not (sizes > 0.0).any():
        raise ValueError(f"tokens: expected shape (K,) and one count > 0, found {sizes.shape}")
    if (wrong := ~(sizes >= 0.0)).any():
        index = int(np.argmax(wrong))
        raise ValueError(f"tokens: expected counts >= 0, found {tokens[index]} at index {index}")
    # In units of the budget: nothing overflows, and whatever is handed out is a weight already.
    with np.errstate(over="ignore"):
        caps = np.minimum(sizes / budget * max_epochs, 1.0)
    handed_out = _filled(caps)
    return handed_out / handed_out.sum()


def _filled(caps: FloatArray) -> FloatArray:
    """Return ``min(caps, level)`` of sum 1, or ``caps`` if they do not reach it."""
    ascending = np.sort(caps)
    # With the m smallest at their caps, the others would be at levels[m].
    below = np.concatenate(([0.0], np.cumsum(ascending)[:-1]))
    levels = (1.0 - below) / np.arange(caps.size, 0, -1)
    above = ascending >= levels
    return np.minimum(caps, levels[np.argmax(above)]) if above.any() else caps
