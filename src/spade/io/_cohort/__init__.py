"""Which samples of a published dataset there are, and which of them a study used."""
