"""The command line of facke."""
