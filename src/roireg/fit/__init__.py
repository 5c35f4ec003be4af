"""Region pairs (and images) to transforms."""
