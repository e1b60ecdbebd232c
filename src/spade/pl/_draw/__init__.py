"""What plots share: axes, colours, tissue and words."""
