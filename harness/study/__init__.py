"""Loops around a session that vary cases to learn something about a scenario."""
