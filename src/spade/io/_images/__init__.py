"""Pictures of tissue: RGB images of any size as multiscale elements."""
