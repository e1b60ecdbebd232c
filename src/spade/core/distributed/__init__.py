"""More than one process: torchrun ranks, worker processes, threads and how work is dealt to them."""
