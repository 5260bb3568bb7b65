"""The token arrays of many shards, of which a bounded number is mapped. Knows no domains."""

import threading
from collections import OrderedDict
from pathlib import Path

from megadga.arrays import TokenArray
from megadga.shards.indexed import IndexedShard


class TokenMaps:
    """Maps a shard's tokens at first use and keeps the most recently used ones mapped.

    A map costs a file descriptor, of which a process usually has 1024, so thousands of shards
    cannot all stay open. Safe to use from several threads.

    Args:
        limit: Maps that stay open, at least 1.

    Raises:
        ValueError: If ``limit`` is below 1.
    """

    def __init__(self, *, limit: int = 128) -> None:
        if limit < 1:
            raise ValueError(f"limit: expected at least 1, found {limit}")
        self._limit = limit
        self._maps: OrderedDict[Path, TokenArray] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._maps)

    def tokens(self, shard: IndexedShard) -> TokenArray:
        """Return all tokens of ``shard``, shape ``(num_tokens,)``, read-only.

        An array that is still held keeps its map open, whatever the limit says.

        Raises:
            ShardError: If the shard's ``.bin`` is gone or has changed its size.
        """
        with self._lock:
            if shard.prefix in self._maps:
                self._maps.move_to_end(shard.prefix)
            else:
                self._maps[shard.prefix] = shard.tokens
                if len(self._maps) > self._limit:
                    self._maps.popitem(last=False)
            return self._maps[shard.prefix]
