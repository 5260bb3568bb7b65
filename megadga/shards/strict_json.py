"""JSON that says everything once. Knows no keys."""

import json
import re
from collections import Counter
from typing import Any

BYTE_ORDER_MARK = "\ufeff"
"""What editors of Windows write in front of UTF-8; no part of the text."""
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def parse_strictly(content: str | bytes) -> Any:
    """Return what JSON holds.

    Raises:
        ValueError: If it is none, in another encoding than UTF-8, nested too deeply, an object
            has a name twice, of which ``json`` would keep the last one without a word, or a string
            has half a surrogate pair, which no file and no terminal takes.
    """
    try:
        text = content if isinstance(content, str) else content.decode()
        found = json.loads(text.removeprefix(BYTE_ORDER_MARK), object_pairs_hook=_each_once)
        if _SURROGATE.search(text):
            json.dumps(found, ensure_ascii=False).encode()
    except RecursionError as error:
        raise ValueError(str(error)) from error
    return found


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        name, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"{name!r} twice in one object")
    return values
