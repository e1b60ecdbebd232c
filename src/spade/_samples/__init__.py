"""Between what users pass as ``samples`` and checked arrays: the only place that knows the layout of a SpatialData."""
