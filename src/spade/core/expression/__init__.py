"""Expression as arrays: normalising, smoothing, markers and prediction."""
