"""Runs in a browser: watched as their gates fall, listed, and a judge's rows labelled; it ships nothing."""
