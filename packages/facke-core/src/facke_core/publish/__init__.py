"""Weights for others: saved, described, verified, pushed, exported."""
