"""Side-by-side measurements against the peers, each by one command: `python -m bench [PART]`."""
