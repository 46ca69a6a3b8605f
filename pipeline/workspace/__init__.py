"""Between the user's repository and the run: export a tree to work on, and bring a patch back.

The repository is not trusted: its configuration, hooks, filters and submodules are never used, and nothing
in it is changed except by `apply_patch`.
"""

from pipeline.workspace.apply import apply_patch
from pipeline.workspace.export import export_snapshot, load_snapshot
from pipeline.workspace.history import with_history

__all__ = ["apply_patch", "export_snapshot", "load_snapshot", "with_history"]
