"""The planner: takes a task through the stages and returns a patch. Imports neither Ray, torch nor vLLM."""
