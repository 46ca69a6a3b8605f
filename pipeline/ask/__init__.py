"""Asks a repository or a long text: composes the tiers of `pipeline.context` to an answer."""
