"""Seeded damage to what a user can touch: bytes, values of JSON, and values of overrides.

Every mutation is one that a hand, a tool or a disk makes: cut, doubled, moved and changed bytes,
other values and other types, numbers without end, text that is none.
"""

import json
import random
from collections.abc import Iterator
from typing import Any

COUNT = 300
"""Mutations of each kind."""
DEEP = 3000
ODD_BYTES = (
    b"",
    b"\x00",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\xed\xa0\x80",  # half a surrogate pair
    b"\r",
    b"\n",
    b"\t",
    b"\xe2\x80\xa8",
    b"{",
    b"}",
    b"[" * DEEP,
    b'{"a":' * DEEP,
    b"9" * 5000,
    b"-1",
    b"1e999",
    b"NaN",
    b"null",
    b"&a [*a]",
    b"!!python/name:os.system",
    b"x" * 5000,
    b": ",
    b'"',
    b"'",
    b"- ",
    b",",
    b"#",
)
ODD_VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    2**31,
    2**63,
    -(2**70),
    10**400,
    0.5,
    -0.0,
    1e308,
    float("nan"),
    float("inf"),
    "",
    " ",
    "x",
    "0",
    "\x00",
    "\ud800",
    "\n",
    "\u2028",
    "a/b",
    "..",
    "/",
    "~",
    "x" * 300,
    "x/" * 3000,
    "9" * 5000,
    [],
    [[]],
    [None],
    [1, 2],
    ["a", "a"],
    {},
    {"": 1},
    {"x": None},
    {"type": "x"},
    {"\ud800": 1},
)


def of_bytes(content: bytes, *, seed: int) -> Iterator[bytes]:
    """Yield ``COUNT`` damaged copies."""
    for index in range(COUNT):
        yield _damaged(content, random.Random(f"{seed} {index}"))


def of_json(value: Any, *, seed: int) -> Iterator[bytes]:
    """Yield ``COUNT`` texts of JSON in which values, names or both are others."""
    for index in range(COUNT):
        rng = random.Random(f"{seed} {index}")
        changed = json.loads(json.dumps(value))
        for _ in range(rng.choice((1, 1, 2))):
            changed = _changed(changed, rng)
        yield json.dumps(changed).encode()


def of_overrides(keys: list[str], *, seed: int) -> Iterator[str]:
    """Yield ``COUNT`` overrides of keys that are there or not, with values of all kinds."""
    for index in range(COUNT):
        rng = random.Random(f"{seed} {index}")
        key = rng.choice(keys)
        match rng.randrange(4):
            case 0:
                key = f"{key}.{rng.choice(('0', '-1', 'x', 'type', '99', '٣', ' '))}"
            case 1:
                key = key.rpartition(".")[0] or key
            case 2:
                place = rng.randrange(len(key) + 1)
                odd = rng.choice((".", "..", "[0]", "\x00", "\ud800", " ", "=", "\n", "٣"))
                key = key[:place] + odd + key[place:]
            case _:
                pass
        yield f"{key}={_written(rng.choice(ODD_VALUES), rng)}"


def keys_of(value: Any, prefix: str = "") -> Iterator[str]:
    """Yield the dotted key of everything in nested mappings and lists."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for name, inner in items:
            yield f"{prefix}{name}"
            yield from keys_of(inner, f"{prefix}{name}.")


def _written(value: Any, rng: random.Random) -> str:
    """Return a value as YAML: as JSON has it, or bare."""
    if isinstance(value, str) and rng.random() < 0.5:
        return value
    return json.dumps(value, ensure_ascii=rng.random() < 0.5)


def _damaged(content: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(content) + 1)
    end = min(len(content), place + rng.choice((1, 1, 2, 8, 64)))
    odd = rng.choice(ODD_BYTES)
    lines = content.splitlines(keepends=True)
    rng.shuffle(lines)
    ways = (
        content[:place],
        content[:place] + content[end:],
        content[:end] + content[place:],
        content[:place] + rng.randbytes(end - place) + content[end:],
        content[:place] + odd + content[end:],
        content[:place] + odd + content[place:],
        odd,
        b"".join(lines),
    )
    return rng.choice(ways)


def _changed(value: Any, rng: random.Random) -> Any:
    """Return a value with another one somewhere inside."""
    inner = isinstance(value, dict | list) and value and rng.random() < 0.85
    if not inner:
        return rng.choice(ODD_VALUES)
    if isinstance(value, list):
        at = rng.randrange(len(value))
        kept = list(value)
        match rng.randrange(4):
            case 0:
                del kept[at]
            case 1:
                kept.append(rng.choice(ODD_VALUES))
            case _:
                kept[at] = _changed(value[at], rng)
        return kept
    name = rng.choice(list(value))
    kept = dict(value)
    match rng.randrange(6):
        case 0:
            del kept[name]
        case 1:
            kept[rng.choice(("", "x", "\ud800", "step", name.upper()))] = rng.choice(ODD_VALUES)
        case 2:
            kept[rng.choice(list(value))] = value[name]
        case _:
            kept[name] = _changed(value[name], rng)
    return kept
