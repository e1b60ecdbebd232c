"""What plots share: axes, colours and tissue."""
