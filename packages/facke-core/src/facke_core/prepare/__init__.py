"""From photographs to a data set."""
