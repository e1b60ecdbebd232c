"""``label_patches`` and its steps: reading polygons and tables, and assigning their labels to patches."""
