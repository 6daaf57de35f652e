"""Plugins: hooks, descriptions, and the registry that holds them."""
