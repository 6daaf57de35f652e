"""Measuring swaps: pairs, metrics, statistics, reports (docs/evaluate.md).

Import from the modules; nothing is imported here, so that the command line stays quick.
"""
