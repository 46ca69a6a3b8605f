"""Escalation: which rung of the ladder comes next, in the order as written or as past verdicts teach."""
