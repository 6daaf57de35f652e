"""The face-swapping method mobile, a plugin of facke."""
