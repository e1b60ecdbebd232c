"""Values as viewers show them: colours, images, columns on squares."""
