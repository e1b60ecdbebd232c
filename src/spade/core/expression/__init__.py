"""Expression as arrays: normalisation, smoothing, marker genes and prediction."""
