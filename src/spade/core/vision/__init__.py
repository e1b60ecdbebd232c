"""Image networks: encoder towers and low-rank adapters."""
