"""A small folder in the layout of HEST-1k, and a quick encoder."""
