"""SEAL, fine-tuning against expression: network, losses, pairs and training."""
