"""Reproduce: from an issue's text to a test that fails because of what the issue tells.

`example` finds a test to imitate, `prompt` asks for a test, `answer` makes a test file of what was said,
`judge` says whether its failure shows the issue, `choice` picks one of those that do. No human has confirmed
such a test: whatever rests on it is advisory.
"""
