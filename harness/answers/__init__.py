"""What models said, asked once and kept under keys of all it came from."""
