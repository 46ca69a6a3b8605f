"""The planner as a LangGraph graph. Read `build.py` first."""
