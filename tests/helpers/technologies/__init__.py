"""Files in the true formats of Space Ranger and Xenium, made small."""
