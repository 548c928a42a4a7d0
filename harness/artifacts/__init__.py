"""Files of models and of evidence: their formats, digests and what was kept of them."""
