"""Studies: loops around a session that vary cases to learn something about a scenario. Judge nothing by themselves."""
