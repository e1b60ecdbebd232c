"""``label_patches`` and its steps."""
