"""`harness view`: which runs it lists, what it shows of one that goes on, and whom it lets in."""

from __future__ import annotations

import fcntl
import json
import os
import random
import re
import shutil
import socket
import threading
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from harness.release.releases import Promotion
from harness.testing import Project
from tests.helpers.late import import_late
from tests.helpers.serving import Served, serve_runs

import_late("starlette")
import_late("uvicorn")
import_late("jinja2")


@pytest.fixture
def run(passed: Project) -> Path:
    """The folder of a run that passed."""
    return max((passed.folder / "reports").iterdir())


@pytest.fixture
def server(run: Path) -> Iterator[Served]:
    """A server of that run's folder."""
    with serve_runs(run.parent) as found:
        yield found


def copy_run(run: Path, name: str) -> Path:
    """Copy a run under another name."""
    return shutil.copytree(run, run.with_name(name))


def edit(path: Path, **keys: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | keys), "utf-8")


def test_runs_are_listed(run: Path, server: Served) -> None:
    """The last first: what each came to, what decided, what changed since the one before, and when it was released."""
    later = copy_run(run, "later")
    edit(later / "report.json", started="2030-01-01T00:00:00+00:00")
    lock = json.loads((later / "suite.lock.json").read_text("utf-8"))
    lock["suite"]["model"]["path"] = "other <b>"
    (later / "suite.lock.json").write_text(json.dumps(lock), "utf-8")
    report = json.loads((run / "report.json").read_text("utf-8"))
    (export,) = report["exports"]
    released = Path(f"{export['to']}.releases", "releases.jsonl")
    released.parent.mkdir(parents=True)
    line = Promotion("0" * 64, export["digest"], "fake", "merged", [], "me", "2030-02-03T00:00:00", report["started"])
    released.write_text(json.dumps(asdict(line)) + "\n")
    first, second = re.findall(r"<tr><td>.*?</tr>", server.ask("/").body, re.DOTALL)
    assert 'href="/run/later"' in first and "1 January 2030" in first and "model.path other &lt;b&gt;" in first
    assert "✓ merged may ship: 1 of 1 gate passed" in second and "✓ floor: 0.900 [0.812, 0.956]" in second
    assert "2030-02-03" in second and "model.path" not in second


def test_a_run_is_read_again_only_where_it_changed(run: Path, server: Served) -> None:
    """Hundreds of runs would else be read for each look at the list."""
    before, path = server.ask("/").body, run / "report.json"
    about = path.stat()
    path.write_text(" " * about.st_size, "utf-8")
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))
    assert server.ask("/").body == before
    os.utime(path)
    assert ": the report cannot be read:" in server.ask("/").body


@pytest.mark.slow
def test_a_run_is_its_static_report(run: Path, server: Served) -> None:
    """As it lies in the folder, or as it would; either may run no script as one of ours."""
    shown = server.ask(f"/run/{run.name}")
    assert (shown.status, "1 of 1 gate passed" in shown.body) == (200, True)
    (run / "report.html").write_text("<p>as it lies there", "utf-8")
    shown = server.ask(f"/run/{run.name}")
    assert (shown.body, shown.headers["content-security-policy"][:8]) == ("<p>as it lies there", "sandbox ")
    copy_run(run, "other")
    shown = server.ask(f"/compare?run=other&run={run.name}")
    assert "Between the runs" in shown.body and shown.headers["content-security-policy"].startswith("sandbox ")
    assert server.ask("/compare?run=other&run=other").status == 400


BROKEN = {
    "cut": (
        lambda f: (f / "report.json").write_text((f / "report.json").read_text("utf-8")[:99]),
        ": the report cannot be read:",
    ),
    "newer": (lambda f: edit(f / "report.json", format=9), ": was not written by this version of the harness"),
    "changed": (lambda f: edit(f / "report.json", seed=3), '<b class="ERROR">! not verified, the report was changed'),
    "no rows": (lambda f: [shutil.rmtree(f / s) for s in ("base", "adapter", "merged")], "may ship"),
    "no lock": (lambda f: (f / "suite.lock.json").unlink(), "may ship"),
    "cut events": (
        lambda f: [(f / "report.json").unlink(), (f / "events.jsonl").write_text("{")],
        ": was not written by this version of the harness",
    ),
    "killed": (lambda f: (f / "report.json").unlink(), "ended"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", BROKEN)
def test_what_cannot_be_read_is_a_line_of_the_list(run: Path, server: Served, case: str) -> None:
    """The others are listed all the same, and its own page is a line too, or what can be shown."""
    change, told = BROKEN[case]
    change(copy_run(run, "broken"))
    rows = re.findall(r"<tr><td>.*?</tr>", server.ask("/").body, re.DOTALL)
    assert len(rows) == 2 and any("/run/broken" in row and told in row for row in rows)
    shown = server.ask("/run/broken")
    assert shown.status == 200 or (shown.status == 400 and shown.body.count("\n") == 0)


def test_the_list_has_candidate_duration_and_filter(run: Path, server: Served) -> None:
    """Beside the suite and the result; the box to filter is there for the script to show."""
    page = server.ask("/").body
    (row,) = re.findall(r"<tr><td>.*?</tr>", page, re.DOTALL)
    assert "<td>merged</td>" in row
    assert re.search(r'<td class="num">[\d.]+ s</td>', row)
    assert 'id="filter"' in page


def test_a_run_is_watched_as_its_gates_fall(run: Path, server: Served) -> None:
    """Each change is sent when it comes, and the end, when the report is there."""
    (run / "report.json").rename(run.parent / "report.json")
    lines = (run / "events.jsonl").read_text("utf-8").splitlines(keepends=True)
    first = next(i for i, line in enumerate(lines) if '"event": "verdict"' in line)
    with (run / "events.jsonl").open("w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.writelines(lines[:first])
        file.flush()
        shown = server.ask(f"/run/{run.name}")
        assert f'data-source="/run/{run.name}/events"' in shown.body and "✓ PASS" not in shown.body
        got: list[str] = []
        thread = threading.Thread(target=lambda: got.append(server.ask(f"/run/{run.name}/events").body))
        thread.start()
        file.writelines(lines[first:])
    thread.join()
    assert "running: " in got[0] or "ended: " in got[0]
    for part in ("Stages", "Metrics so far", "Gates so far, the worst first", 'aria-label="done">✓</span> preflight'):
        assert part in shown.body + got[0], part
    assert got[0].count("✓ PASS") >= 2 and got[0].endswith("event: end\ndata:\n\n")
    assert "data-source" not in server.ask(f"/run/{run.name}").body


@pytest.mark.slow
def test_who_comes_from_elsewhere_is_refused(run: Path, server: Served) -> None:
    """Another Host or Origin, none, two, or another method: nothing of a run is said, and nothing is written."""
    rng, ours = random.Random(17), server.host
    hosts = [
        "",
        "evil.example",
        f"evil.example:{server.port}",
        "localhost",
        f"{ours}.evil.example",
        f"{ours}@x",
        f" {ours}:1",
    ]
    hosts += [ours[:-1], ours + "0", ours.replace("127", "127.0"), f"x{ours}", "[::1]", "0.0.0.0", "\u00e9"]
    hosts += ["".join(rng.choices("0127.:@/localhstevi", k=rng.randint(1, 20))) for _ in range(60)]
    paths = ["/", f"/run/{run.name}", f"/label/{run.name}", f"/run/{run.name}/events", "/compare"]
    for host in hosts:
        refused = server.ask(rng.choice(paths), Host=host)
        assert refused.status in (400, 421) and run.name not in refused.body, host
    origins = ["null", "", f"https://{ours}", "http://evil.example", f"http://{ours}.evil", f"http://{ours}/", ours]
    for origin in [*origins, *(f"http://{host}" for host in hosts if host.isascii())]:
        for method in ("GET", "POST"):
            refused = server.ask(rng.choice(paths), method, "" if method == "POST" else None, Origin=origin)
            assert refused.status == 403 and run.name not in refused.body, origin
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"):
        assert server.ask("/", method).status == 403
        assert server.ask("/", method, Origin=f"http://{ours}").status == 405
    assert server.ask("/").headers["content-security-policy"].startswith("frame-ancestors 'none'")


@pytest.mark.slow
def test_no_path_leads_out(run: Path, server: Served) -> None:
    """What was not listed is not there, however it is spelt."""
    rng, secret = random.Random(17), run.parent.parent / "secret"
    secret.mkdir()
    for name in ("report.json", "report.html", "events.jsonl"):
        (secret / name).write_text("the secret", "utf-8")
    parts = ["..", "%2e%2e", ".", "%2f", "/", "\\", "%5c", "secret", "report.html", run.name, "%00", "~", "%252e", ";"]
    for start in ("/run/", "/label/", "/", "/compare?run=", "/run//"):
        for _ in range(40):
            path = start + "".join(rng.choices(parts, k=rng.randint(1, 6)))
            found = server.ask(path)
            assert "the secret" not in found.body and found.status in (200, 400, 404, 405), path
            assert found.status != 200 or path in ("/", "/.") or run.name in path, path


def test_token_lets_in(run: Path) -> None:
    """Only who has it, once in the address and then in a cookie that no script reads."""
    with serve_runs(run.parent, "s3cret-token", known=False) as server:
        for path in ("/", "/?token=", "/?token=other", f"/run/{run.name}?token=%C3%A9"):
            assert server.ask(path).status == 401
        entered = server.ask("/?token=s3cret-token")
        cookie, *flags = entered.headers["set-cookie"].split("; ")
        assert (entered.status, entered.headers["location"]) == (303, "/")
        assert {"httponly", "samesite=strict"} <= {flag.lower() for flag in flags}
        assert server.ask("/", Cookie=cookie).status == 200
        assert server.ask("/", Cookie=cookie + "x").status == 401


@pytest.mark.parametrize(
    "words",
    [
        ["nowhere"], ["base"], ["--host", "0.0.0.0"], ["--host", "::"], ["--host", "box"],
        ["--host", "192.0.2.1"], ["--port", "TAKEN"], ["--port", "99999"],
    ],
)  # fmt: skip
def test_what_cannot_be_served_is_a_line(passed: Project, words: list[str]) -> None:
    """No runs, an address of another machine, or a port that is taken: exit 4."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        words = [word.replace("TAKEN", str(taken.getsockname()[1])) for word in words]
        outcome = passed.harness("view", *words)
    assert (outcome.code, outcome.err.count("\n"), outcome.out) == (4, 1, "") and "attempting" not in outcome.err
