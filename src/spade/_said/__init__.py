"""What functions say while they work and at their end, and how much of it is shown."""
