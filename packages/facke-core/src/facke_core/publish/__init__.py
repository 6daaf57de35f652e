"""Publishing: weights are saved, described, verified, pushed and exported for others."""
