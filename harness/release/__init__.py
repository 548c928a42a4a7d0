"""Exports with their evidence, and how they are verified and promoted."""

# of what is served: what `harness parity` looks at, and [served] of a policy may demand
LAYERS = ("identity", "ids", "stops", "defaults", "sampling", "logprobs", "lora", "answers", "gates")
