"""Weights: their layout, where they are, and what their licences say."""
