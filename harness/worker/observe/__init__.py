"""Observing a run: stages, modules, tensors and their digests."""
