"""Bugs that maintainers of PyPI libraries fixed: the previous release's code, the next release's tests."""
