"""Files of whole slides."""
