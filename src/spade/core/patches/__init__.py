"""Patches out of chunked images, and the sources that training reads them from."""
