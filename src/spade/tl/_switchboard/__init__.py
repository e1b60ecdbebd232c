"""The ablation of the loss terms of a training."""
