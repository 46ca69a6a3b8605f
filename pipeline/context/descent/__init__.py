"""Tier D: a recursive reading whose control flow is fixed; the model only answers yes or no."""
