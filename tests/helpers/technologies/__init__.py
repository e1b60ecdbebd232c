"""Files in the true formats of Space Ranger, Xenium, MERSCOPE and SAW, made small."""
