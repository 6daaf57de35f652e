"""The facke command line."""
