"""The face-swapping method pyramid, a plugin of facke."""
