"""What can happen to the bytes of a file: hypothesis strategies for damaged copies of it."""

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn


@st.composite
def damaged(draw: DrawFn, content: bytes) -> bytes:
    """Return ``content`` with bytes changed, cut off or put in; or no byte of it left."""
    kind = draw(st.sampled_from(("changed", "changed", "cut", "inserted", "removed", "replaced")))
    place = draw(st.integers(0, max(len(content) - 1, 0)))
    some = draw(st.binary(min_size=1, max_size=9))
    match kind:
        case "changed":
            return content[:place] + some + content[place + len(some) :]
        case "cut":
            return content[:place]
        case "inserted":
            return content[:place] + some + content[place:]
        case "removed":
            return content[:place] + content[place + len(some) :]
        case _:
            return draw(st.binary(max_size=200))
