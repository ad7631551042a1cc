"""Benchmarks: onepass, NumPy and the peers in one process.

Run `python -m bench --help` from the repository root.
"""
