"""From what a user passes as ``samples`` to checked arrays, and back: the only place that knows the layout of a SpatialData."""
