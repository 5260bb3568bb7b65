"""Which of a launcher's variables its ranks on other machines need. Knows names, sends nothing."""

from collections.abc import Mapping

_PREFIXES = (
    "GLOO_",
    "NCCL_",
    "UCX_",
    "TORCH_",
    "TORCHINDUCTOR_",
    "OMP_",
    "HF_",
    "WANDB_",
    "MEGADGA_",
)
_NAMES = frozenset(
    {
        "PYTHONPATH",
        "PATH",
        "LD_LIBRARY_PATH",
        "CUDA_HOME",
        "CUDA_DEVICE_MAX_CONNECTIONS",
        "TOKENIZERS_PARALLELISM",
    }
)
_SECRET = ("KEY", "TOKEN", "SECRET", "PASSWORD", "CREDENTIAL")


def forwarded(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that travel to other machines, by name.

    Those whose name speaks of a secret never do: put secrets where the machines find them
    themselves, as ``hf auth login`` does.
    """
    return {
        name: environment[name]
        for name in sorted(environment)
        if (name in _NAMES or name.startswith(_PREFIXES)) and not _is_secret(name)
    }


def _is_secret(name: str) -> bool:
    return name != "TOKENIZERS_PARALLELISM" and any(word in name.upper() for word in _SECRET)
