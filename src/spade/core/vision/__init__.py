"""Image networks: towers of encoders, and low-rank adapters."""
