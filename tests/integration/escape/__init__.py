"""Attacks on the sandboxes, one test each; `make test-escape` runs them."""
