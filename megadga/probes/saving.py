"""Collects what DeepSpeed puts into a checkpoint, so that it can be written apart from DeepSpeed.

``save_checkpoint`` writes between barriers: if one rank's file system fails, the others wait there
for it. Here a checkpoint engine of our own takes DeepSpeed's place while it saves; it keeps the
states instead of writing them.
"""

import copy
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, cast, final

import torch
from deepspeed.runtime.checkpoint_engine.checkpoint_engine import (
    CheckpointCommitInfo,
    CheckpointEngine,
)
from torch import Tensor, UntypedStorage


@dataclass(frozen=True, eq=False)
class PendingFile:
    """A file of a checkpoint that is not written yet.

    Attributes:
        name: Its path relative to the folder of all checkpoints, with ``/``.
        num_bytes: Size of its tensors; the file is slightly larger.
        write: Writes its content to a file, from the beginning; can be called again.
        executable: Whether it is a program.
    """

    name: str
    num_bytes: int
    write: Callable[[BinaryIO], object]
    executable: bool = False


def pending_file(name: str, content: bytes) -> PendingFile:
    """Return a file with some content.

    Args:
        name: Its path relative to the folder of all checkpoints, with ``/``.
        content: All of it.
    """
    return PendingFile(name, len(content), lambda file: file.write(content))


def collect_files(
    engine: Any, tag: str, client_state: dict[str, Any], *, scratch: Path, copies: bool
) -> tuple[PendingFile, ...]:
    """Return the files that this rank contributes to a checkpoint. Collective.

    DeepSpeed exchanges all that it has to, and nothing is written into the run's folder.

    Args:
        engine: A ``DeepSpeedEngine`` that writes checkpoints by ``torch.save``.
        tag: The checkpoint's name, that of its folder.
        client_state: As in ``save_checkpoint``.
        scratch: An empty local folder, for the few kilobytes of scripts that DeepSpeed copies
            beside its checkpoints. It can be removed afterwards.
        copies: Copy all states to CPU memory, so that training may go on before they are written:
            as much memory as the files take. False: the files refer to the engine's tensors.
    """
    own: CheckpointEngine = engine.checkpoint_engine
    collector = _Collector(own, scratch, copies=copies)
    engine.checkpoint_engine = collector
    try:
        engine.save_checkpoint(str(scratch), tag, client_state, save_latest=False)
    finally:
        engine.checkpoint_engine = own
    return (*collector.files, *map(partial(_script, scratch), _files(scratch)))


@final
class _Collector(CheckpointEngine):
    """Keeps what DeepSpeed saves.

    Args:
        own: DeepSpeed's checkpoint engine, which writes the files later.
        root: What DeepSpeed takes for the folder of all checkpoints.
        copies: Whether to copy the states.
    """

    def __init__(self, own: CheckpointEngine, root: Path, *, copies: bool) -> None:
        super().__init__()
        self.files: list[PendingFile] = []
        self._own = own
        self._root = root
        self._copies = copies

    def create(self, info: CheckpointCommitInfo) -> None:
        pass

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        pass

    def save(self, state_dict: Any, path: str) -> None:
        size = sum(storage.nbytes() for storage in _storages(state_dict))
        state = _StateCopy()(state_dict) if self._copies else state_dict
        write: Any = partial(self._own.save, state)
        self.files.append(PendingFile(str(Path(path).relative_to(self._root)), size, write))

    def load(self, path: str, map_location: Any = None) -> Any:
        return self._own.load(path, map_location)

    def commit(self, info: CheckpointCommitInfo) -> None:
        pass

    def is_data_parallel_writer(self, dp_rank: int) -> bool:
        return self._own.is_data_parallel_writer(dp_rank)


@final
class _StateCopy:
    """Copies a nested state to CPU memory; tensors of one storage share one again.

    So the file is the one that the state itself would give, tied weights and views of flat buffers
    included. DeepSpeed's ``clone_tensors_for_torch_save`` gives each a storage of its own, and
    does not copy anything but tensors.
    """

    def __init__(self) -> None:
        self._storages: dict[tuple[torch.device, int], UntypedStorage] = {}

    def __call__(self, value: Any) -> Any:
        match value:
            case Tensor():
                return self._tensor(value.detach())
            case dict():
                copied: dict[Any, Any] = copy.copy(value)  # an OrderedDict has attributes, too
                for key, inner in cast("dict[Any, Any]", value).items():
                    copied[key] = self(inner)
                return copied
            case list():
                return [self(inner) for inner in cast("list[Any]", value)]
            case tuple() if type(value) is tuple:
                return tuple(self(inner) for inner in cast("tuple[Any, ...]", value))
            case _:
                return copy.deepcopy(value)

    def _tensor(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        key = storage.device, storage.data_ptr()
        if key not in self._storages:
            on_cpu = storage.device.type == "cpu"
            self._storages[key] = storage.clone() if on_cpu else storage.cpu()
        empty = torch.empty(0, dtype=tensor.dtype)
        return empty.set_(
            self._storages[key], tensor.storage_offset(), tensor.size(), tensor.stride()
        )


def _storages(value: Any) -> Iterable[UntypedStorage]:
    """Return the storages of a nested state's tensors, each once."""
    every = (tensor.untyped_storage() for tensor in _tensors(value))
    return {(each.device, each.data_ptr()): each for each in every}.values()


def _tensors(value: Any) -> Generator[Tensor]:
    match value:
        case Tensor():
            yield value
        case dict():
            for inner in cast("dict[Any, Any]", value).values():
                yield from _tensors(inner)
        case list() | tuple():
            for inner in cast("Iterable[Any]", value):
                yield from _tensors(inner)
        case _:
            pass


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _script(root: Path, path: Path) -> PendingFile:
    """Return a file that DeepSpeed has written by itself."""
    content = path.read_bytes()
    name = path.relative_to(root).as_posix()
    executable = bool(path.stat().st_mode & 0o100)
    return PendingFile(name, len(content), lambda file: file.write(content), executable=executable)
