"""What of this machine a run would use, and what would keep it from running."""
