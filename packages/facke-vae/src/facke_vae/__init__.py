"""CVAE and CVAE-GAN for facke."""
