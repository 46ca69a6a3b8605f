"""Draft: asks the model for a rewritten definition and turns its answer into an edit, or into a reason.

`prompt` renders what the model sees, `answer` finds the definition in what it says, `blocks` reads
SEARCH/REPLACE answers, `apply` puts either into the file behind the gates, `source` keeps the file's bytes.
"""
