"""Whole slides: which library reads which file, their levels, and what scanners say about them."""
