"""Programs of expression, distilled into the image side."""
