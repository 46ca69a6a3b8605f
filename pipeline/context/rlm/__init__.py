"""Tier R: a model that reads by writing code, in a REPL inside the sandbox."""
