"""What a run will do: collected, selected and checked before a model is loaded."""
