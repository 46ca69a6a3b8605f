"""Sandboxes: where model-written and repository code runs. Docker, or bubblewrap where none answers."""
