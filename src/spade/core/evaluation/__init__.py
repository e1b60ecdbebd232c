"""How results are measured: draws, folds, metrics, intervals, retrieval, mixing and composition."""
