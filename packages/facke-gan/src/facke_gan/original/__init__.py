"""What the originals do around their networks, for comparison."""
