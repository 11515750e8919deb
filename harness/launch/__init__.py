"""Where a worker starts. Knows processes and machines, nothing of verdicts."""
