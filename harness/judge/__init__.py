"""From two recordings to a verdict, and from many verdicts to a release's. Runs nothing."""
