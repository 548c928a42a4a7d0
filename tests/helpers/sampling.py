"""A loader of fake models that sample: an answer is right by its prompt and seed, as often as the model is skilled."""

HARNESSFILE = """
import hashlib
from contextlib import contextmanager
from dataclasses import dataclass
from harness import Completion, hookimpl, loader
from harness.testing import FakeSubject, identity, load, open_source

@dataclass(frozen=True)
class Sampling(FakeSubject):
    def generate(self, prompts, *, sampling=None, **_):
        seeds = sampling.seeds if sampling else [0] * len(prompts)
        found = []
        for prompt, seed in zip(prompts, seeds, strict=True):
            prompt = prompt if isinstance(prompt, str) else prompt[-1]["content"]
            luck = int(hashlib.sha256(f"{prompt} {seed}".encode()).hexdigest()[:8], 16) / 16**8
            text = prompt.split()[-1] if luck < self.skill else f"wrong{seed % 2}"
            found.append(Completion(text, "length" if seed % 4 == 0 else "eos", 1))
        return found

@loader(open=open_source, identity=identity)
@contextmanager
def sampling(refs, *, dtype: str = "auto"):
    with load(refs, dtype=dtype) as loaded:
        yield [Sampling(**vars(one)) for one in loaded]

@hookimpl
def harness_loaders():
    return {"sampling": sampling}
"""
