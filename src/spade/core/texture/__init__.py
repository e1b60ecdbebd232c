"""Compiled image statistics behind the built-in texture encoder."""
