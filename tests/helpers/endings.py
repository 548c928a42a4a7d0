"""A world of fakes that tell how their answers ended."""

HARNESSFILE = '''
import json
from contextlib import contextmanager
from harness import Completion, hookimpl, loader
from harness.testing import identity as same, load as fake, open_source


class Telling:
    """A fake model that was cut in the rows whose number is below some, and says nothing in some others."""

    def __init__(self, subject, cut, empty, asked):
        self.subject, self.cut, self.empty, self.asked = subject, cut, empty, asked

    def __getattr__(self, name):
        return getattr(self.subject, name)

    def generate(self, prompts, **how):
        with open(self.asked, "a") as file:
            file.write("x" * len(prompts))
        found = []
        for prompt, text in zip(prompts, self.subject.generate(prompts)):
            number = int(prompt.split("question ")[1].split()[0])
            cut = number < self.cut
            text = "" if number >= 60 - self.empty else text
            found.append(Completion(text, "length" if cut else "eos", 32 if cut else 2))
        return found


def identity(ref, *, cut=0, base_cut=0, empty=0):
    return f"telling {cut} {base_cut} {empty} {same(ref)}"


def opened(path, *, cut=0, base_cut=0, empty=0):
    return open_source(path)


@loader(open=opened, identity=identity)
@contextmanager
def telling(refs, *, cut: int = 0, base_cut: int = 0, empty: int = 0):
    """Tell how answers ended."""
    with fake(refs) as subjects:
        yield [Telling(s, base_cut if s.name == "base" else cut, empty, "asked") for s in subjects]


@hookimpl
def harness_loaders():
    return {"telling": telling}
'''
