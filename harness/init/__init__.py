"""`harness init --data`: whoever's table becomes a suite that runs."""
