"""Encoding of large samples: pieces on disk, devices and ranks that share them, and clients of dask."""
