"""Probes for other libraries' training loops: `lightning` and `transformers`, each an optional extra."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submodules=["lightning", "transformers"])
