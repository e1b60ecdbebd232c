"""SPADE, the mixture of data experts: clustering, routing, heads, losses and training."""
