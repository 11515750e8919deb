"""Emulations on the CPU of what GPUs change in arithmetic, each defined exactly.

An emulation is no GPU: it does one thing that GPUs do, in an order that is written down, and the
tests hold every kernel to its definition bit by bit. docs/forecast.md says what is left out.
"""
