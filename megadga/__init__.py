"""megadga: online data mixing for language-model pretraining on DeepSpeed ZeRO.

What a training loop of one's own needs comes from here::

    from megadga import Dga, MixturePlugin, Sampling, open_domain, open_domains, uniform_weights

The names are listed in ``__init__.pyi``. Each is imported when it is first used, so that what
needs no torch starts without it.
"""

from importlib.metadata import version
from typing import Any

import lazy_loader

# Untyped there; type checkers read the stub instead of this file.
_attach: Any = lazy_loader.attach_stub
__getattr__, __dir__, __all__ = _attach(__name__, __file__)
__version__ = version("megadga")
