"""Each command has a module here; heavy imports happen inside the functions."""
