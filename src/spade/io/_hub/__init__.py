"""The Hugging Face hub: download into its cache, upload as one commit, and errors that say what to do."""
