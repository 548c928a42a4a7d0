"""What made a gate fail: suspects among the training rows, and the proof by training without them."""
