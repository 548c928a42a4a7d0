"""`harness parity`: is what answers behind a URL the model that was exported?"""

IDENTITY = "identity"
LAYERS = (IDENTITY, "ids", "stops", "defaults", "logprobs", "lora", "answers", "gates")
WANTED = ("ids", "stops", "logprobs")  # what must be the same, unless others are named
DRAWN, GREEDILY = 48, 24  # tokens that are drawn of each conversation, and that are answered
