"""What decides the bytes of a build, beside its input and tokenizer. Knows no file."""

from dataclasses import dataclass

from megadga.errors import ConfigError
from megadga.prepare.reading.records import Keys
from megadga.shards.create import MOST_TOKENS, SHARD_TOKENS

SPLITS = ("train", "valid")


@dataclass(frozen=True, slots=True)
class Recipe:
    """How documents become the splits of domains.

    Attributes:
        keys: Where records have their text, and their id and domain if those are asked for.
        valid_fraction: Documents held out for validation, in [0, 1), on average. Which ones
            depends on their text alone: copies stay together, and a document keeps its side
            whatever the seed and whatever is added to the input.
        seed: Of the shuffle, in [0, 2^64).
        piece_tokens: Longer documents are cut into pieces of so many tokens, each a document of
            its own from then on, in [1, 2^62]; None: documents stay whole.
        shard_tokens: Tokens of a shard, about, in [1, 2^62].

    Raises:
        ConfigError: If a value is out of range.
    """

    keys: Keys = Keys()
    valid_fraction: float = 0.05
    seed: int = 0
    piece_tokens: int | None = None
    shard_tokens: int = SHARD_TOKENS

    def __post_init__(self) -> None:
        if not 0.0 <= self.valid_fraction < 1.0:
            raise ConfigError(f"valid_fraction: expected 0 <= F < 1, found {self.valid_fraction}")
        if not 0 <= self.seed < 1 << 64:
            raise ConfigError(f"seed: expected 0 <= N < 2^64, found {self.seed}")
        for name, value in (
            ("piece_tokens", self.piece_tokens),
            ("shard_tokens", self.shard_tokens),
        ):
            if value is not None and value < 1:
                raise ConfigError(f"{name}: expected at least 1, found {value}")
            if value is not None and value > MOST_TOKENS:
                raise ConfigError(f"{name}: expected at most 2^62, found {value}")
