"""shim"""
from spade.io._write import _publish as publish, recover, replace_elements
