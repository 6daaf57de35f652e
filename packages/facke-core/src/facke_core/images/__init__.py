"""Pictures: reading, writing, grids, and what results say about themselves."""
