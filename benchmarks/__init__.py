"""Benchmarks against peers in the same run. Ratios are what counts: machines are shared and noisy."""
