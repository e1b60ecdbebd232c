"""SEAL, fine-tuning of image encoders with expression: network, losses, pairs and training."""
