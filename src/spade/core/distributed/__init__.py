"""Parallel work: torchrun ranks, worker processes, threads, and how work is dealt to them."""
