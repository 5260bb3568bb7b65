"""From a sweep's configuration to its runs: mixtures, a file each, and what is left to train."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np

from megadga.arrays import FloatArray
from megadga.config.loading import load_config
from megadga.config.run import RunConfig
from megadga.config.yaml_source import dump_line
from megadga.data.files import atomic_write
from megadga.errors import ConfigError
from megadga.mixers.static import epoch_caps
from megadga.mixers.weights import Weights
from megadga.run_folder.markers import finished_step
from megadga.section import ConfigIssue, KeyPath
from megadga.sweep.config import DirichletMixtures, HalvingMixtures, ListedMixtures, SweepConfig
from megadga.sweep.drawing import draw_dirichlet, draw_halving
from megadga.sweep.subsets import write_subsets
from megadga.train.data import RunData, open_data
from megadga.train.mixture import misnamed
from megadga.train.opening import weights_over


@final
@dataclass(frozen=True, eq=False)
class SweepRun:
    """One run of a sweep.

    Attributes:
        name: Of its folder, as ``m003-seed0``.
        config: Complete, with a static mixture.
        file: Where that is written, for `megadga train`.
    """

    name: str
    config: RunConfig
    file: Path

    @property
    def is_finished(self) -> bool:
        """Whether it has trained its last step."""
        return finished_step(self.config) is not None


@final
@dataclass(frozen=True, eq=False)
class Sweep:
    """A sweep that may be trained.

    Attributes:
        runs: All of one seed before the next.
        data: Of the configuration that they share.
        subsets: Folder of the subsets that are read in the domains' place; None: none are.
        share: Of each domain in its subset.
    """

    runs: tuple[SweepRun, ...]
    data: RunData
    subsets: Path | None
    share: float

    def write(self, report: Callable[[str], None]) -> None:
        """Write the runs' files and the subsets.

        Args:
            report: Called with a line where it takes a while.

        Raises:
            ConfigError: If a file is there with other content, or a subset is too small.
            ShardError: If a shard cannot be read, or a subset written.
        """
        write_runs(self.runs)
        if self.subsets is not None:
            data = self.data
            write_subsets(self.subsets, data.domains, data.held_out, self.share, report=report)


def plan_sweep(config: SweepConfig) -> Sweep:
    """Draw the mixtures of a sweep, and plan its runs.

    Reads the shards' headers, and writes nothing.

    Raises:
        ConfigError: If the run or a mixture is invalid, or there is too little text for the caps.
        ShardError: If a shard is missing or damaged.
    """
    proxy = load_config(config.run, _overrides(config, "uniform"))
    data = open_data(proxy)
    subsets = None
    share = _share(config, proxy)
    if share is not None:
        subsets = config.output.absolute() / f"subsets-{config.target_tokens}"
    names = [domain.name for domain in data.domains]
    mixtures = draw_mixtures(config, proxy, data)
    digits = max(3, len(str(len(mixtures) - 1)))
    shared = () if subsets is None else (f"data.domains={subsets}",)
    runs = tuple(
        _run(
            config,
            f"m{index:0{digits}}-seed{seed}",
            (*_overrides(config, dict(zip(names, each, strict=True))), f"seed={seed}", *shared),
        )
        for seed in config.seeds
        for index, each in enumerate(mixtures.tolist())
    )
    return Sweep(runs, data, subsets, 1.0 if share is None else share)


def draw_mixtures(config: SweepConfig, proxy: RunConfig, data: RunData) -> FloatArray:
    """Return the mixtures of a sweep over the domains, shape ``(number, K)``.

    Args:
        config: The sweep.
        proxy: Its run.
        data: Of the run.

    Raises:
        ConfigError: If a mixture names other domains, or there is too little text.
    """
    match config.mixtures:
        case ListedMixtures(weights=listed):
            keys: list[KeyPath] = [("mixtures", "weights", index) for index in range(len(listed))]
            return np.stack(
                [
                    _weights(config, proxy, data, key, rule)
                    for key, rule in zip(keys, listed, strict=True)
                ]
            )
        case DirichletMixtures(number=number, prior=prior, strength=strength):
            return draw_dirichlet(
                _weights(config, proxy, data, ("mixtures", "prior"), prior),
                _caps(config, proxy, data),
                number=number,
                strength=strength,
                seed=config.seed,
            )
        case HalvingMixtures(number=number, smallest=smallest):
            caps = _caps(config, proxy, data)
            try:
                return draw_halving(caps, number=number, smallest=smallest, seed=config.seed)
            except ValueError as error:
                raise _invalid(config, ("mixtures", "number"), error) from None


def write_runs(runs: Sequence[SweepRun]) -> None:
    """Write the file of each run.

    Raises:
        ConfigError: If one is there with other content: the sweep has changed since.
    """
    texts = {run.file: run.config.to_yaml() for run in runs}
    for path, text in texts.items():
        if path.exists() and path.read_text(encoding="utf-8") != text:
            raise ConfigError(
                f"{path}: expected what this sweep writes, found the run of another: "
                "choose another output, or remove the folder"
            )
    for path, text in texts.items():
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(path) as file:
                file.write(text.encode())


def _overrides(config: SweepConfig, weights: str | Mapping[str, float]) -> tuple[str, ...]:
    mixing = dump_line({"type": "static", "weights": weights}).strip()
    return (*config.set, f"mixing={mixing}", f"output={config.output.absolute()}")


def _run(config: SweepConfig, name: str, overrides: Sequence[str]) -> SweepRun:
    folder = config.output.absolute() / name
    complete = load_config(config.run, (*overrides, f"output={folder}"))
    return SweepRun(name, complete, folder.with_name(f"{name}.yaml"))


def _share(config: SweepConfig, proxy: RunConfig) -> float | None:
    """Return the share of each domain that the runs read, to match repetition; None: all."""
    if not config.match_repetition or config.target_tokens is None:
        return None
    tokens = _tokens(proxy)
    if tokens >= config.target_tokens:
        expected = f"more than the {tokens:,} tokens of a run of the sweep"
        found = f"{config.target_tokens:,}"
        raise config.error([ConfigIssue(("target_tokens",), expected, found)])
    return tokens / config.target_tokens


def _tokens(proxy: RunConfig) -> int:
    sequences = proxy.training.steps * proxy.training.global_batch_size
    return sequences * proxy.model.sequence_length


def _weights(
    config: SweepConfig, proxy: RunConfig, data: RunData, key: KeyPath, rule: Weights
) -> FloatArray:
    """Return what a mixture of the sweep's file comes to, shape ``(K,)``."""
    resolver = weights_over(proxy, data)
    if isinstance(rule, Mapping):
        issues = list(misnamed(key, rule, resolver.names, data.excluded.keys()))
        if issues:
            raise config.error(issues)
    return resolver.of(key, rule)


def _caps(config: SweepConfig, proxy: RunConfig, data: RunData) -> FloatArray:
    """Return the largest weight of each domain, shape ``(K,)``."""
    if config.max_epochs is None:
        return np.ones(len(data.domains))
    epochs = np.max(list(_epochs_at_one(config, proxy, data)), axis=0)
    try:
        return epoch_caps(epochs, config.max_epochs)
    except ValueError as error:
        raise _invalid(config, ("max_epochs",), error) from None


def _epochs_at_one(config: SweepConfig, proxy: RunConfig, data: RunData) -> Iterator[FloatArray]:
    """Yield the epochs of each domain at weight 1, of a run of the sweep and of its target."""
    sequences = np.array([domain.num_sequences for domain in data.domains], dtype=np.float64)
    if not config.match_repetition:
        yield proxy.training.steps * proxy.training.global_batch_size / sequences
    if config.target_tokens is not None:
        tokens = np.array([domain.num_epoch_tokens for domain in data.domains], dtype=np.float64)
        yield config.target_tokens / tokens


def _invalid(config: SweepConfig, key: KeyPath, error: ValueError) -> ConfigError:
    _, _, words = str(error).partition(": expected ")
    expected, _, found = words.partition(", found ")
    return config.error([ConfigIssue(key, expected, found)])
