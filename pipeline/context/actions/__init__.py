"""Tier M: a model moves over the tree by actions whose form a grammar fixes."""
