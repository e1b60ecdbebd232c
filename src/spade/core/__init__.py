"""Arrays in, arrays out, on numpy, scipy and torch alone: clustering, heads, losses, routing, training, patch reading."""
