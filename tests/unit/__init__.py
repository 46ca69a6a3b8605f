"""Tests of loopwright."""
