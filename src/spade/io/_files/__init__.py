"""How files of others are opened: damage is named, and sizes are bounded before anything is allocated."""
