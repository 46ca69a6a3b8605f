"""The page that tells a person what a run did: one HTML file, no script, nothing loaded from elsewhere."""

from pipeline.report.page import render

__all__ = ["render"]
