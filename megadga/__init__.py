"""megadga: online data mixing for language-model pretraining on DeepSpeed ZeRO.

What a training loop of one's own needs comes from here::

    from megadga import Dga, MixturePlugin, Sampling, open_domain, open_domains, uniform_weights

Names are imported when they are first used, so that what needs no torch starts without it.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str

    from megadga.data.folder import DomainSource as DomainSource
    from megadga.data.folder import open_chat as open_chat
    from megadga.data.folder import open_domain as open_domain
    from megadga.data.folder import open_domains as open_domains
    from megadga.data.folder import open_examples as open_examples
    from megadga.errors import ConfigError as ConfigError
    from megadga.errors import MegadgaError as MegadgaError
    from megadga.errors import ResumeError as ResumeError
    from megadga.errors import ShardError as ShardError
    from megadga.errors import UnsupportedEngineError as UnsupportedEngineError
    from megadga.export import Exported as Exported
    from megadga.export import ExportOptions as ExportOptions
    from megadga.export import export_run as export_run
    from megadga.mixers.base import Scheduler as Scheduler
    from megadga.mixers.basis import OverBasis as OverBasis
    from megadga.mixers.dga import Dga as Dga
    from megadga.mixers.doge import Doge as Doge
    from megadga.mixers.doremi import Doremi as Doremi
    from megadga.mixers.grape import Grape as Grape
    from megadga.mixers.odm import Odm as Odm
    from megadga.mixers.probing import Directional as Directional
    from megadga.mixers.probing import InFlight as InFlight
    from megadga.mixers.probing import LowRank as LowRank
    from megadga.mixers.probing import LowRankEnergy as LowRankEnergy
    from megadga.mixers.probing import Sharded as Sharded
    from megadga.mixers.schedule import Schedule as Schedule
    from megadga.mixers.static import Static as Static
    from megadga.mixers.static import uniform_weights as uniform_weights
    from megadga.mixers.targets import OverTargets as OverTargets
    from megadga.mixers.updates import UpdateSteps as UpdateSteps
    from megadga.model.losses import inputs_and_targets as inputs_and_targets
    from megadga.plugin import Batch as Batch
    from megadga.plugin import BatchIndices as BatchIndices
    from megadga.plugin import MixturePlugin as MixturePlugin
    from megadga.plugin import Plugin as Plugin
    from megadga.plugin import Sampling as Sampling
    from megadga.plugin.trainer import MixtureCallback as MixtureCallback
    from megadga.plugin.trainer import MixtureDataset as MixtureDataset
    from megadga.plugin.trainer import SequenceDataset as SequenceDataset
    from megadga.probes.loss import causal_lm_loss as causal_lm_loss

_PUBLIC = {
    "megadga.data.folder": (
        *("DomainSource", "open_chat", "open_domain", "open_domains", "open_examples"),
    ),
    "megadga.errors": (
        *("ConfigError", "MegadgaError", "ResumeError", "ShardError", "UnsupportedEngineError"),
    ),
    "megadga.export": ("ExportOptions", "Exported", "export_run"),
    "megadga.mixers.base": ("Scheduler",),
    "megadga.mixers.basis": ("OverBasis",),
    "megadga.mixers.dga": ("Dga",),
    "megadga.mixers.doge": ("Doge",),
    "megadga.mixers.doremi": ("Doremi",),
    "megadga.mixers.grape": ("Grape",),
    "megadga.mixers.odm": ("Odm",),
    "megadga.mixers.probing": ("Directional", "InFlight", "LowRank", "LowRankEnergy", "Sharded"),
    "megadga.mixers.schedule": ("Schedule",),
    "megadga.mixers.static": ("Static", "uniform_weights"),
    "megadga.mixers.targets": ("OverTargets",),
    "megadga.mixers.updates": ("UpdateSteps",),
    "megadga.model.losses": ("inputs_and_targets",),
    "megadga.plugin": ("Batch", "BatchIndices", "MixturePlugin", "Plugin", "Sampling"),
    "megadga.plugin.trainer": ("MixtureCallback", "MixtureDataset", "SequenceDataset"),
    "megadga.probes.loss": ("causal_lm_loss",),
}
_MODULES = {name: module for module, names in _PUBLIC.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name == "__version__":
        return version("megadga")
    if name not in _MODULES:
        raise AttributeError(f"module 'megadga' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])
