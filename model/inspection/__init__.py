"""What happens inside a looped model, loop by loop and layer by layer: numbers, and a page of plots."""

from model.inspection.measures import Inspection, inspect_network
from model.inspection.page import render_page

__all__ = ["Inspection", "inspect_network", "render_page"]
