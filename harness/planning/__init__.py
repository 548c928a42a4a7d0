"""`harness plan`: what a run would take and what its gates could conclude."""
