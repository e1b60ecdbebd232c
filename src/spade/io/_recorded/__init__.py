"""What readers record about a section, and whether it still holds."""
