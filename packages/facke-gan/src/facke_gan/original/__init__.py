"""Face parsing and paste-back of the originals, for comparison."""
