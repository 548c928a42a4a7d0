"""Ten tasks of Inspect, a kind each, over the rows of `harness.testing`; a fake model answers with the last word."""

from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.model import ModelOutput, ModelUsage, get_model
from inspect_ai.scorer import Score, accuracy, choice, exact, includes, mean, model_graded_qa, scorer
from inspect_ai.solver import Generate, TaskState, generate, multiple_choice, solver, use_tools, user_message
from inspect_ai.tool import tool
from inspect_ai.util import sandbox

ROWS = [Sample(id=f"q{i}", input=f"question {i} say w{i}", target=f"w{i}", metadata={"kind": "ab"[i % 2]})
        for i in range(64)]  # fmt: skip


@task
def one_turn(n: int = 64) -> Task:
    """Ask once."""
    return Task(dataset=ROWS[:n], scorer=exact())


@task
def two_turns() -> Task:
    """Ask, and ask again behind the answer."""
    again = user_message("and now say yes")
    return Task(dataset=[_with_target(s, "yes") for s in ROWS], solver=[generate(), again, generate()], scorer=exact())


@tool
def add():
    """Make the tool."""

    async def execute(x: int, y: int) -> str:
        """Add two numbers.

        Args:
            x: the first
            y: the second
        """
        return f"the sum: {x + y}"

    return execute


@task
def tools() -> Task:
    """Ask for a sum that a tool computes."""
    samples = [Sample(id=f"s{i}", input=f"add {i} and 1", target=str(i + 1)) for i in range(4)]
    return Task(dataset=samples, solver=[use_tools(add()), generate()], scorer=includes())


@scorer(metrics=[accuracy()])
def runs():
    """Score 1 where the answer, run as a shell's words, prints itself."""

    async def score(state: TaskState, target: object) -> Score:
        done = await sandbox().exec(["echo", state.output.completion])
        return Score(value=done.stdout.strip() == state.output.completion)

    return score


@task
def code() -> Task:
    """Run each answer in a sandbox."""
    return Task(dataset=ROWS[:4], scorer=runs(), sandbox="local")


@task
def graded(grade: str = "C") -> Task:
    """Have another model grade the answers."""
    said = ModelOutput.from_content("mockllm/model", f"GRADE: {grade}")
    outputs = [said.model_copy(update={"usage": ModelUsage()})] * 8  # else its tokens are counted, by a download
    judge = get_model("mockllm/model", custom_outputs=outputs, memoize=False)
    return Task(dataset=ROWS[:8], scorer=model_graded_qa(model=judge))


@task
def graded_by_itself() -> Task:
    """Have the model grade its own answers, as Inspect does by default."""
    return Task(dataset=ROWS[:8], scorer=model_graded_qa())


@scorer(metrics=[accuracy()])
def asks_itself():
    """Score by asking whichever model is under test."""

    async def score(state: TaskState, target: object) -> Score:
        return Score(value=(await get_model().generate("was this right? say yes")).completion == "yes")

    return score


@task
def graded_in_secret() -> Task:
    """Have the model grade its own answers where no name tells of it."""
    return Task(dataset=ROWS[:8], scorer=asks_itself())


@task
def choices() -> Task:
    """Let the model choose a letter."""
    samples = [Sample(id=f"c{i}", input="which?", choices=["x", "y"], target="AB"[i % 2]) for i in range(6)]
    return Task(dataset=samples, solver=multiple_choice(template="{question} {choices} {letters} say ANSWER:A"),
                scorer=choice())  # fmt: skip


@task
def epochs() -> Task:
    """Ask for four epochs."""
    return Task(dataset=ROWS[:8], scorer=exact(), epochs=4)


@scorer(metrics={"short": [mean()], "half": [mean()]})
def table():
    """Score two things at once."""

    async def score(state: TaskState, target: object) -> Score:
        return Score(value={"short": len(state.output.completion) < 5, "half": "P"})

    return score


@task
def several_scorers() -> Task:
    """Score an answer in three ways, one of which gives two values."""
    return Task(dataset=ROWS[:8], scorer=[exact(), includes(), table()])


@solver
def forever(asks: bool = True):
    """Go on until a limit."""

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        import anyio

        while True:
            state = await generate(state) if asks else state
            await anyio.sleep(0 if asks else 0.1)

    return solve


@task
def endless(asks: bool = True) -> Task:
    """Never end by itself."""
    return Task(dataset=ROWS[:8], solver=forever(asks), scorer=exact())


@solver
def fails(every: int):
    """Fail on every n-th sample."""

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        if int(str(state.sample_id)[1:]) % every == 0:
            raise ValueError("a wheel came off\nand rolled away")
        return await generate(state)

    return solve


@task
def failing(every: int = 4) -> Task:
    """Fail on some samples."""
    return Task(dataset=ROWS[:8], solver=fails(every), scorer=exact())


@scorer(metrics=[mean()])
def points():
    """Score three points a sample."""

    async def score(state: TaskState, target: object) -> Score:
        return Score(value=3)

    return score


@task
def beyond() -> Task:
    """Score outside 0 and 1."""
    return Task(dataset=ROWS[:8], scorer=points())


@task
def twins() -> Task:
    """Have two samples with one id."""
    return Task(dataset=[ROWS[0], ROWS[1], ROWS[0]], scorer=exact())


@task
def several_targets() -> Task:
    """Accept several answers."""
    return Task(dataset=[_with_target(s, ["no", str(s.target)]) for s in ROWS[:8]], scorer=exact())


@task
def downloads() -> Task:
    """Read rows from a hub."""
    from inspect_ai.dataset import hf_dataset

    return Task(dataset=hf_dataset("nobody/nothing-of-this-name", split="test"), scorer=exact())


@task
def odd_names() -> Task:
    """Have ids that look like patterns, and metadata whose names mean something else."""
    about = {"text": "x", "messages": [], "id": 7, "prompt": None}
    rows = [s.model_copy(update={"id": f"[{s.id}]*|?", "metadata": about}) for s in ROWS[:4]]
    return Task(dataset=[*rows, ROWS[5].model_copy(update={"id": None})], scorer=exact())


@task
def unscored() -> Task:
    """Have no scorer."""
    return Task(dataset=ROWS[:2])


def _with_target(sample: Sample, target: str | list[str]) -> Sample:
    return sample.model_copy(update={"target": target})
