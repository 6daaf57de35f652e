"""Checkpoints of other systems, read without executing anything in them."""
