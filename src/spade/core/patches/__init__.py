"""Patches cut from chunked images, and the sources that training reads them from."""
