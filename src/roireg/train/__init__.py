"""Training: generated scenes, and what is learned from them."""
