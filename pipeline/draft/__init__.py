"""Draft: asks the model for a definition or an edit, and turns its answer into files or into a reason.

`prompt` renders what the model sees, `answer` finds the definition in what it says, `blocks` and `diffs` read
edits and `place` finds where they go; `apply` puts either into the files, behind the gates and the `guards`.
"""
