"""`harness parity`: is what answers behind a URL the model that was exported?"""

from harness.internals import LAYERS as LAYERS

IDENTITY = LAYERS[0]
REQUIRED_LAYERS = ("ids", "stops", "logprobs", "answers")  # what must be the same, unless others are named
DRAWN, GREEDILY = 48, 24  # tokens that are drawn of each conversation, and that are answered
