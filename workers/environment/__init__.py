"""The target's dependencies: found without running its code, installed once, mounted read-only."""

from workers.environment.builder import PythonEnvironmentBuilder

__all__ = ["PythonEnvironmentBuilder"]
