"""DDPM and ILVR for facke."""
