"""Probes in other libraries' training loops: `lightning` and `transformers`, each an optional extra."""
