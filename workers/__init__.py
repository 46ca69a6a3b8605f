"""Where the work is done: engines on Ray, sandboxes, environments. Implements the planner's protocols."""
