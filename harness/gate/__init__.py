"""Decides whether a release may go out: a policy, the evidence of runs, and a pure decision."""
