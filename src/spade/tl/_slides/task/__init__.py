"""Parts of ``tl.slide_task``: what is predicted, cohorts, training across folds and cohorts, and scores."""
