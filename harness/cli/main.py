"""Words in, exit code out."""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from harness import __version__
from harness.cli import signals, streams
from harness.cli.guard import guarded
from harness.errors import ExitCode, UsageError, did_you_mean, of_the_machine
from harness.texts.shown import shown

if TYPE_CHECKING:
    from harness.collection.collect import Plan
    from harness.plugins import Provided
    from harness.records.gates import Gate, Verdict

PLUGIN_HELP = "load a plugin, or no:NAME to leave one out"
Rows = dict[str, dict[str, Any]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code; a mistake of the user is one line on stderr."""
    args = _parser().parse_args(arguments)
    try:
        with signals.as_interrupts(), streams.outliving_their_reader():
            return _ended(args)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return ExitCode.INTERRUPTED


def _ended(args: argparse.Namespace) -> int:
    """Run a command; whatever it raises but an interruption has an exit code, and that of success is no exception's."""
    try:
        return int(guarded(args.command, args))
    except UsageError as error:
        for message in error.messages:
            _say(f"error: {message}", sys.stderr)
        return ExitCode.USAGE
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a bug of ours, or a plugin's sys.exit(), has an exit code of its own
        if full := of_the_machine(error):
            _say(f"error: {full}", sys.stderr)
            return ExitCode.USAGE
        print(shown(traceback.format_exc(), lines=True), end="", file=sys.stderr)
        return ExitCode.INTERNAL


def run(args: argparse.Namespace) -> int:
    """`harness run SUITE`"""
    from harness.pipeline.run import Options, prepare, run_suite

    options = Options(
        overrides=tuple(args.set),
        candidate=args.candidate,
        out=args.out,
        keyword=args.k,
        maxfail=1 if args.x else args.maxfail,
        last_failed=args.lf,
        limit=args.limit,
        export=not args.no_export,
        select=args.select,
        cache=not args.no_cache,
        plugins=tuple(args.p),
        ignore=tuple(args.ignore),
        junit_xml=args.junit_xml,
    )
    if args.collect_only:
        return _print_plan(prepare(args.suite, options), args.v - args.q)
    from dataclasses import replace

    from harness.cli.terminal import Terminal

    listeners = (Terminal(args.v - args.q),)
    return int(run_suite(args.suite, replace(options, listeners=listeners)).exit_code)


def plan(args: argparse.Namespace) -> int:
    """`harness plan SUITE`: before any training, what a run can prove, takes and needs."""
    from harness.pipeline.run import Options, opened
    from harness.plan import benchmark
    from harness.plan.forecast import forecast

    options = Options(
        overrides=tuple(args.set),
        candidate=args.candidate,
        out=args.out,
        limit=args.limit,
        cache=not args.no_cache,
        plugins=tuple(args.p),
    )
    session, record = opened(args.suite, options)

    def say(what: str) -> None:
        print(f"measuring {what} …", file=sys.stderr)

    known = benchmark.measure(session, say) if args.measure else benchmark.known(session)
    found = forecast(session, record, known)
    if args.json:
        from dataclasses import asdict

        from harness.reports.report_json import dumps

        print(dumps(asdict(found)), end="")
        return ExitCode.OK
    from harness.cli.forecast import tell
    from harness.cli.terminal import Terminal

    tell(found, Terminal())
    return ExitCode.OK


def check(args: argparse.Namespace) -> int:
    """`harness check SUITE`: what would go wrong, without training."""
    import time

    from harness.cli.terminal import Terminal
    from harness.pipeline.run import Options, check_suite

    terminal, begun = Terminal(args.v - args.q), time.monotonic()
    options = Options(overrides=tuple(args.set), plugins=tuple(args.p), ignore=tuple(args.ignore), limit=args.limit)
    found, built, plan = check_suite(args.suite, options)
    for warning in plan.warnings:
        terminal.line(f"warning: {warning}", "yellow")
    if built:
        terminal.preview(built)
    for flag in found:
        terminal.flag(flag)
    words = [f.severity for f in found if f.ignored is None]
    counts = {word: words.count(word) for word in ("error", "warning", "note")}
    told = ", ".join(f"{n} {word}{'s' if n != 1 else ''}" for word, n in counts.items())
    ignored = sum(f.ignored is not None for f in found)
    terminal.line(f"{args.suite}: {told}, {ignored} ignored in {time.monotonic() - begun:.1f} s")
    return ExitCode.USAGE if counts["error"] else ExitCode.OK


def explain(args: argparse.Namespace) -> int:
    """`harness explain CODE`: why a check is there."""
    import inspect

    from harness.evaluation.checks import BUILD
    from harness.plugins import load_plugins

    found = {n: p for (kind, n), p in load_plugins(args.suite, args.p).provided.items() if kind == "check"}
    texts = {"build": BUILD} | {name: inspect.getdoc(p.function) or "" for name, p in found.items()}
    if args.code is None:
        for name, text in texts.items():
            print(f"{name:<6} {text.partition(chr(10))[0]}")
        return ExitCode.OK
    name = args.code.partition("-")[0]
    if name not in texts:
        raise UsageError(f'no check "{name}"{did_you_mean(name, texts)}; see harness explain')
    print(f"{name}: {texts[name]}")
    return ExitCode.OK


def plugins(args: argparse.Namespace) -> int:
    """`harness plugins [NAME]`: what may stand after `use =`, and its options."""
    from harness.plugins import load_plugins

    suite = args.suite or Path("harness.toml")
    found = load_plugins(suite, args.p).provided
    chosen = [p for p in found.values() if args.name in (None, p.name, p.plugin)]
    if not chosen:
        raise UsageError(f'no plugin provides "{args.name}"; see harness plugins')
    for provided in sorted(chosen, key=lambda p: (p.kind, p.name)):
        _print_provided(provided)
    return ExitCode.OK


def show(args: argparse.Namespace) -> int:
    """`harness show RUN`: the report again, or the rows that changed."""
    from rich.console import Console

    from harness.cli.terminal import Terminal, print_flips
    from harness.reports.report_json import read_run
    from harness.reports.run_folder import read_rows

    report = read_run(args.run)
    folder = args.run if args.run.is_dir() else args.run.parent
    if not args.flips:
        Terminal(args.v - args.q).show(report)
        return ExitCode.OK
    console = Console(highlight=False)
    changed = [v for v in report.verdicts if v.versus and (v.won or v.lost)]
    for verdict in changed:
        evaluation = verdict.metric.partition(".")[0]
        ours = read_rows(folder, verdict.candidate, evaluation)
        theirs = read_rows(folder, verdict.versus or "", evaluation)
        try:
            flips = _flips(verdict, ours, theirs)
        except (LookupError, TypeError):
            what = f'its rows are not those that changed for "{verdict.gate}" on {verdict.candidate}'
            raise UsageError(f"{folder}: {what}; run the suite again") from None
        print_flips(console, verdict, flips)
    if not changed:
        console.print("no row changed between a candidate and the baseline of a gate")
    return ExitCode.OK


def waive(args: argparse.Namespace) -> int:
    """`harness waive GATE`: let a gate be broken until a date, in writing."""
    from harness.suite.waivers import waive as add

    path, made = add(args.gate, args.reason, args.until, args.suite, args.by)
    _say(f'{path}: "{made.gate}" ({made.claim}) {made.says()}')
    return ExitCode.OK


def selftest(args: argparse.Namespace) -> int:
    """`harness selftest SUITE`: models that must not ship, through the suite."""
    from harness.cli.terminal import print_equals, print_trial
    from harness.selftest import selftest as put_through

    found = put_through(
        args.suite,
        only=args.only,
        limit=args.limit,
        plugins=args.p,
        overrides=args.set,
        told=print_trial,
        said=lambda line: _say(line, sys.stderr),
    )
    for equal in found.equals:
        print_equals(equal)
    tried = [t for t in found.trials if not t.skipped]
    caught, undecided = [t for t in tried if t.caught and not t.undecided], [t for t in tried if t.undecided]
    rest = f", {len(undecided)} not judged" if undecided else ""
    print(f"{len(caught)} of {len(tried)} impostors caught{rest}")
    return found.exit_code


def init(args: argparse.Namespace) -> int:
    """`harness init [FOLDER]`: a suite, a harnessfile and example data that run."""
    from harness.cli.init import write_project

    for path in write_project(args.folder):
        print(path)
    print(f"next: harness run {args.folder / 'suite.toml'}", file=sys.stderr)
    return ExitCode.OK


def verify(args: argparse.Namespace) -> int:
    """`harness verify DIR`: are these the bytes that passed? Without torch, without network."""
    from harness.release.policy import read_policy
    from harness.release.verify import verify

    if (args.replay is None) != (args.suite is None):
        raise UsageError("--replay asks the rows of a suite: give both --replay N and --suite SUITE, or neither")
    found = verify(args.export, read_policy(args.policy) if args.policy else None, recompute=args.recompute)
    if found.ok and args.replay is not None:
        from harness.replay import replay

        again = replay(args.export, args.suite, args.replay, args.seed, args.p)
        found.notes += again.notes
        found.ok = not again.differs
        if again.differs:
            found.refused = f"replay: {again.differs}"
        else:
            found.steps["replay"] = again.says
    if args.json:
        print(found.as_json())
    else:
        for name, told in found.steps.items():
            _say(f"{name}: {told}")
        for note in found.notes:
            _say(f"note: {note}")
        if found.ok:
            _say(f"verified: {found.candidate} of suite {found.suite}, root {found.root}")
    if not found.ok:
        _say(f"refused: {args.export}: {found.refused}", sys.stderr)
    return ExitCode.OK if found.ok else ExitCode.REFUSED


def keygen(args: argparse.Namespace) -> int:
    """`harness keygen NAME`: a key to sign with, and the table of it for a policy."""
    from harness.release.signing import keygen

    private, public = keygen(args.name)
    _say(str(private))
    _say(str(public))
    _say(f"keep {private} where only the signing step can read it; add {public} to the policy", sys.stderr)
    return ExitCode.OK


def sign(args: argparse.Namespace) -> int:
    """`harness sign DIR --key FILE`: put a name to what an export claims."""
    from harness.release.signing import sign

    _say(f"signed {args.export} with key {sign(args.export, args.key)}")
    return ExitCode.OK


def promote(args: argparse.Namespace) -> int:
    """`harness promote DIR`: make an export the release that the next ones are compared with, or go back by one."""
    from harness.release.policy import read_policy
    from harness.release.promote import go_back, history, promote

    if args.list:
        for line in history(args.export):
            what = "back to" if line.back else "promoted"
            _say(f"{line.at}  {what} {line.root[:16]}  {line.candidate} of suite {line.suite}  by {line.by}")
        return ExitCode.OK
    policy = read_policy(args.policy) if args.policy else None
    found, folder = (go_back if args.back else promote)(args.export, policy)
    if not found.ok:
        _say(f"refused: {found.folder}: {found.refused}", sys.stderr)
        return ExitCode.REFUSED
    _say(f"released: {found.candidate} of suite {found.suite}, root {found.root}, kept in {folder}")
    return ExitCode.OK


def judge_calibrate(args: argparse.Namespace) -> int:
    """`harness judge calibrate LABELS`: hold a judge against human labels."""
    from harness_judge.calibrate import calibrate, describe

    def warn(text: str) -> None:
        _say(f"warning: {text}", sys.stderr)

    where = {"evaluation": args.eval, "run": args.run, "subject": args.subject, "out": args.out}
    found, path = calibrate(args.labels, args.suite, **where, warn=warn)
    for line in describe(found):
        _say(line)
    print(f'next: calibration = "{path.name}", by its path from the suite, in the judged [[eval]]', file=sys.stderr)
    return ExitCode.OK


def judge_disputes(args: argparse.Namespace) -> int:
    """`harness judge disputes RUN`: the rows over which a judge was of two minds."""
    from harness_judge.disputes import describe, disputed, judged

    rows = list(judged(args.run))
    chosen = [(item, row) for item, row in rows if disputed(row)]
    for item, row in rows if args.all else chosen:
        for line in (*describe(item, row), ""):
            _say(line)
    print(f"{len(chosen)} of {len(rows)} judged rows are disputed")
    return ExitCode.OK


class _Parser(argparse.ArgumentParser):
    """A parser, and its commands', that ends as every mistake does: argparse's own 2 is our "interrupted"."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(ExitCode.USAGE, f"{self.prog}: error: {shown(message)}\n")


def _parser() -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = _Parser(
        prog="harness",
        description="Decide whether a fine-tuned language model may ship.",
        epilog="exit codes: 0 every blocking gate passed or is waived, 1 a gate failed, 2 interrupted, "
        "3 a bug of ours, 4 a mistake in suite, data or command, 5 nothing was gated, "
        "6 inconclusive or not evaluated, 7 refused",
    )
    parser.add_argument("--version", action="version", version=f"harness {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _run_parser(commands)
    _plan_parser(commands)
    one = _command(commands, "check", check, "look for what usually goes wrong, without training")
    one.add_argument("suite", type=Path, metavar="SUITE")
    one.add_argument("--limit", type=int, metavar="N", help="only the first N rows of every eval")
    one.add_argument("-p", action="append", default=[], metavar="NAME", help=PLUGIN_HELP)
    one.add_argument("--set", action="append", default=[], metavar="TABLE.KEY=VALUE", help="override the suite")
    one.add_argument("--ignore", action="append", default=[], metavar="CODE", help="a finding that does not count")
    _verbosity(one)
    one = _command(commands, "explain", explain, "say why a check is there; without a code, list all")
    one.add_argument("code", nargs="?", metavar="CODE")
    one.add_argument("--suite", type=Path, metavar="SUITE", help="with the harnessfile beside this suite")
    one.add_argument("-p", action="append", default=[], metavar="NAME", help=PLUGIN_HELP)
    one = _command(commands, "plugins", plugins, "list what may stand after `use =`, and the options of each")
    one.add_argument("name", nargs="?", help="only what this plugin or name provides")
    one.add_argument("--suite", type=Path, metavar="SUITE", help="with the harnessfile beside this suite")
    one.add_argument(
        "-p", action="append", default=[], metavar="NAME", help="load a plugin, or no:NAME to leave one out"
    )
    one = _command(commands, "show", show, "print a run's report again")
    one.add_argument("run", type=Path, metavar="RUN", help="a folder in reports/")
    one.add_argument("--flips", action="store_true", help="the rows that changed, with both answers")
    _verbosity(one)
    one = _command(commands, "waive", waive, "let a gate be broken until a date, in writing")
    one.add_argument("gate", metavar="GATE", help="the id of a gate")
    one.add_argument("--reason", required=True, metavar="TEXT", help="why it may be broken")
    one.add_argument("--until", required=True, metavar="YYYY-MM-DD", help="the last day it counts, UTC")
    one.add_argument("--suite", type=Path, metavar="SUITE", help="unless only one here or in suites/ has such a gate")
    one.add_argument("--by", metavar="NAME", help="who answers for it; you, unless you say")
    one = _command(commands, "selftest", selftest, "put models that must not ship through a suite")
    one.add_argument("suite", type=Path, metavar="SUITE")
    one.add_argument("--only", action="append", default=[], metavar="NAME", help="only this impostor")
    one.add_argument("--limit", type=int, metavar="N", help="only the first N rows of every eval")
    one.add_argument("-p", action="append", default=[], metavar="NAME", help=PLUGIN_HELP)
    one.add_argument("--set", action="append", default=[], metavar="TABLE.KEY=VALUE", help="override the suite")
    _judge_parser(commands)
    one = _command(commands, "init", init, "write a suite, a harnessfile and example data that run")
    one.add_argument("folder", type=Path, nargs="?", default=Path(), metavar="FOLDER")
    _evidence_parsers(commands)
    return parser


def _plan_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    one = _command(commands, "plan", plan, "before any training: what a run can prove, takes and needs")
    one.add_argument("suite", type=Path, metavar="SUITE")
    one.add_argument("--measure", action="store_true", help="train a few steps to measure time and memory")
    one.add_argument("--json", action="store_true", help="all of it as JSON")
    one.add_argument("--limit", type=int, metavar="N", help="as if every eval had only its first N rows")
    one.add_argument("--out", type=Path, default=Path("reports"), metavar="FOLDER", help="where earlier runs are")
    one.add_argument("--no-cache", action="store_true", help="as if nothing were remembered")
    one.add_argument("--candidate", metavar="PATH", help="as if this adapter or merged model were gated")
    one.add_argument("-p", action="append", default=[], metavar="NAME", help=PLUGIN_HELP)
    one.add_argument("--set", action="append", default=[], metavar="TABLE.KEY=VALUE", help="override the suite")


def _evidence_parsers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    one = _command(commands, "verify", verify, "check that an export is what passed, without torch and network")
    one.add_argument("export", type=Path, metavar="DIR", help="what an [[export]] wrote")
    one.add_argument("--policy", type=Path, metavar="FILE", help="the keys you trust, and what you demand")
    one.add_argument("--json", action="store_true", help="print what was found as JSON")
    one.add_argument("--recompute", action="store_true", help="judge again from the rows in it; needs numpy and scipy")
    one.add_argument("--replay", type=int, metavar="N", help="ask the model N random rows again; needs torch")
    one.add_argument("--suite", type=Path, metavar="SUITE", help="for --replay: your copy of the suite that it passed")
    one.add_argument("--seed", type=int, metavar="N", help="for --replay: which rows; drawn anew unless given")
    one.add_argument("-p", action="append", default=[], metavar="NAME", help=f"for --replay: {PLUGIN_HELP}")
    one = _command(commands, "keygen", keygen, "write a key to sign exports with, and its public half for a policy")
    one.add_argument("name", type=Path, metavar="NAME", help="NAME.key and NAME.pub are written")
    one = _command(commands, "sign", sign, "sign what an export claims")
    one.add_argument("export", type=Path, metavar="DIR")
    one.add_argument("--key", type=Path, required=True, metavar="FILE", help="the .key file of harness keygen")
    one = _command(commands, "promote", promote, "make an export the release that the next runs are compared with")
    one.add_argument("export", type=Path, metavar="DIR")
    one.add_argument("--policy", type=Path, metavar="FILE", help="as for verify")
    one.add_argument("--back", action="store_true", help="to the release before")
    one.add_argument("--list", action="store_true", help="print the record of promotions")


def _judge_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    judge = commands.add_parser("judge", help="measure a judge", description="measure a judge")
    jobs = judge.add_subparsers(required=True, metavar="COMMAND")
    one = _command(jobs, "calibrate", judge_calibrate, "hold a suite's judge against human labels: kappa and its bound")
    one.add_argument("labels", type=Path, metavar="LABELS", help="rows with id and label, and the answers or --run")
    one.add_argument("--suite", type=Path, required=True, metavar="SUITE", help="the suite whose judge it is")
    one.add_argument("--eval", metavar="NAME", help="the judged eval, where there are several")
    one.add_argument("--run", type=Path, metavar="RUN", help="a folder in reports/: the labels are of its rows")
    one.add_argument("--subject", default="merged", metavar="NAME", help="whose answers in that run (merged)")
    one.add_argument("--out", type=Path, metavar="FILE", help="where to write (LABELS with .calibration.json)")
    one = _command(jobs, "disputes", judge_disputes, "read the rows whose verdicts differ or are lacking, with reasons")
    one.add_argument("run", type=Path, metavar="RUN", help="a folder in reports/")
    one.add_argument("--all", action="store_true", help="every judged row")


def _run_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    one = _command(commands, "run", run, "run a suite: measure, train, merge, gate, export")
    one.add_argument("suite", type=Path, metavar="SUITE")
    one.add_argument("--collect-only", action="store_true", help="list the items and gates, run nothing")
    one.add_argument("-k", default="", metavar="EXPRESSION", help="only items that match, e.g. 'merged and not quiz'")
    one.add_argument("-x", action="store_true", help="stop at the first item that fails")
    one.add_argument("--maxfail", type=int, default=0, metavar="N", help="stop at the N-th item that fails")
    one.add_argument("--lf", action="store_true", help="only items that failed in the last run")
    one.add_argument("--limit", type=int, metavar="N", help="only the first N rows of every eval; nothing ships")
    one.add_argument("--out", type=Path, default=Path("reports"), metavar="FOLDER", help="where run folders go")
    one.add_argument("--select", action="store_true", help="on the select splits, to choose: no attempt, nothing ships")
    one.add_argument("--no-export", action="store_true", help="measure and gate, export nothing")
    one.add_argument("--no-cache", action="store_true", help="ask the models again, and remember nothing")
    one.add_argument("--candidate", metavar="PATH", help="gate this adapter or merged model instead of training one")
    one.add_argument(
        "-p", action="append", default=[], metavar="NAME", help="load a plugin, or no:NAME to leave one out"
    )
    one.add_argument("--set", action="append", default=[], metavar="TABLE.KEY=VALUE", help="override the suite")
    one.add_argument(
        "--ignore", action="append", default=[], metavar="CODE", help="a check's finding that does not count"
    )
    one.add_argument("--junit-xml", type=Path, metavar="FILE", help="write JUnit XML there too")
    _verbosity(one)


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, function: object, help: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=help, description=help)
    parser.set_defaults(command=function)
    return parser


def _verbosity(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-q", action="count", default=0, help="the summary only")
    parser.add_argument("-v", action="count", default=0, help="slices and tracebacks too")


def _say(line: str, to: Any = None) -> None:
    """Print a line that may hold text of others to stdout, or to another stream."""
    print(shown(line), file=to)


def _print_plan(plan: Plan, verbosity: int) -> int:
    order = {name: i for i, name in enumerate(plan.tasks)}
    gates: dict[str, list[Gate]] = {name: [] for name in order}
    for gate in plan.suite.gates if verbosity >= 0 else ():
        gates[max(plan.evals(gate), key=order.__getitem__) if gate.any_of else gate.eval].append(gate)
    for item in plan.items:
        rows = plan.tasks[item.eval].samples
        _say(f"{item.id}  {'remote' if rows is None else len(rows)} rows")
        for gate in gates[item.eval] if item.subject in plan.candidates else ():
            if gate.applies_to(item.subject):
                note = f' (one of "{gate.group}")' if gate.group else "" if gate.blocking else " (warn)"
                _say(f"    {gate.id}: {f'{gate.metric} {gate.claim()}'.strip()}{note}")
    for warning in plan.warnings:
        _say(f"warning: {warning}", sys.stderr)
    print(f"{len(plan.items)} items, {len(plan.suite.gates)} gates, {len(plan.deselected)} deselected")
    return ExitCode.OK


def _print_provided(provided: Provided) -> None:
    import inspect

    from harness.schema import kind, options_of, show

    print(f"{provided.kind} {provided.name}  ({provided.plugin})")
    summary = (inspect.getdoc(provided.function) or "").partition("\n")[0]
    if summary:
        print(f"    {summary}")
    named, open_ended = options_of(provided.function)
    hints = _hints(provided)
    for name, parameter in named.items():
        default = "required" if parameter.default is parameter.empty else f"default {show(parameter.default)}"
        print(f"    {name}: {kind(hints.get(name, parameter.annotation))}, {default}")
    if open_ended:
        print("    … and the options of the library behind it")


def _hints(provided: Provided) -> dict[str, object]:
    from typing import get_type_hints

    try:
        return get_type_hints(provided.function)
    except NameError:
        return {}


def _flips(verdict: Verdict, ours: Rows, theirs: Rows) -> list[tuple[str, str, str, str, str]]:
    def row(change: str, key: str) -> tuple[str, str, str, str, str]:
        theirs_said, ours_said = str(theirs[key]["resps"][0][0]), str(ours[key]["resps"][0][0])
        return change, str(ours[key]["arguments"][0][0]), str(ours[key]["target"]), theirs_said, ours_said

    return [row("lost", i) for i in verdict.lost] + [row("won", i) for i in verdict.won]
