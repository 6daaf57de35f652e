"""Clips go in and come out: the same frames at the same times, with other faces."""
