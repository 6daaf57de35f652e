"""SimSwap for facke."""
