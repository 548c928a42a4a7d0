"""Ray, quiet and private: a cluster of our own, or one that is there, with a token; no usage statistics, no dashboard.

Ray restarts nothing and sends nothing again here: what became of a lost actor is for the pool to decide.
"""

from __future__ import annotations

import os
import re
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import Any

from harness import UsageError, Worker, WorkerLostError, WorkerServer, is_heartbeat
from harness.internals import format_duration, is_secret, missing_modules_message, shorten_text

OBJECT_STORE_BYTES = 100 << 20  # bytes of shared memory: messages are small
QUIET_ENVIRONMENT = {  # before Ray is imported
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_AUTH_MODE": "token",
}
RELEASE_TIMEOUT_S = 20.0  # seconds for what a lost worker had to be free again
_held: dict[str, int] = {}  # by place: the workers of the stage before
CONNECT_TIMEOUT_S = 5.0  # seconds for a cluster to take a connection


class RayWorkers:
    """Workers of a cluster: one a GPU, or one a processor where there are none, as Ray counts them."""

    def __init__(self, place: str, python: str | None) -> None:
        self.said = f"ray:{place}" if place else "ray"
        self.elsewhere = bool(place)  # nodes say what they are
        found = re.fullmatch(r"([^\s:/?]+:\d{1,5})(?:\?gpus=([1-9]\d*))?", place)
        if place and not found:
            raise UsageError(f'--on "{self.said}": write "ray", "ray:HOST:PORT" or "ray:HOST:PORT?gpus=1"')
        self.place, asked = found.groups("") if found else ("", "")
        self.asked, self.each = bool(asked), int(asked or 1)
        if python:
            what = "but the model has an interpreter of its own"
            raise UsageError(f'--on "{self.said}": the nodes choose their own Python, {what}; use --on local:N')
        self.started, self.kind = 0, "CPU"

    def start(self) -> list[Worker]:
        """Start an actor on every GPU or processor.

        Raises UsageError without Ray, without a cluster, or if no device becomes free.
        """
        ray = connect_ray(self)
        offered = ray.cluster_resources()
        self.kind = "GPU" if self.asked or offered.get("GPU", 0) >= 1 else "CPU"
        count = self._wait_for_free_devices(ray, _held.get(self.place, 1)) or int(
            self.asked
        )  # a cluster grows when it is asked
        _held[self.place] = count
        if not count:
            timeout = format_duration(RELEASE_TIMEOUT_S)
            what = f"of {offered.get(self.kind, 0):g} {self.kind}s none became free in {timeout}"
            raise UsageError(f'--on "{self.said}": {what}')
        return [self._start_worker_actor(ray) for _ in range(count)]

    def restart(self) -> Worker | None:
        """Start an actor if there is room soon. None if there is not, as when a node went away."""
        import ray

        with suppress(ray.exceptions.RayError, ConnectionError):
            return self._start_worker_actor(ray) if self._wait_for_free_devices(ray, 1) else None
        return None

    def _wait_for_free_devices(self, ray: Any, wanted: int) -> int:
        """Return how many workers the free devices hold.

        Waits up to `RELEASE_TIMEOUT_S` until they hold `wanted`: a device may still be in use from a moment ago.
        """
        until = time.monotonic() + RELEASE_TIMEOUT_S
        while True:
            count = int(ray.available_resources().get(self.kind, 0)) // self.each
            if count >= wanted or time.monotonic() >= until:
                return count
            time.sleep(0.2)

    def _start_worker_actor(self, ray: Any) -> Worker:
        self.started += 1
        needs = {"num_gpus": self.each, "num_cpus": 0} if self.kind == "GPU" else {"num_cpus": 1}
        made = ray.remote(WorkerServer).options(max_restarts=0, max_task_retries=0, **needs).remote()
        return RayWorker(ray, made, f"worker {self.started}")


class RayWorker:
    """A worker in a Ray actor. Ray, not heartbeats, tells whether it lives."""

    beats = False

    def __init__(self, ray: Any, actor: Any, name: str) -> None:
        self.name, self._ray, self._actor, self._ended = name, ray, actor, ""

    def send(self, message: str, hear: Callable[[str], None] = lambda _: None) -> Future[str]:
        """Send a message. Its future holds the reply, or raises WorkerLostError."""
        told: Future[str] = Future()

        def listen() -> None:
            try:
                for said in self._actor.replies.options(num_returns="streaming").remote(message):
                    reply = self._ray.get(said)
                    if not is_heartbeat(reply):
                        return told.set_result(reply)
                    hear(reply)
                raise RuntimeError("it wrote no more output")
            except Exception as error:  # of Ray, its core or the actor: all mean that no reply will come
                how = f"{type(error).__name__}: {shorten_text(' '.join(str(error).split()), 200)}"
                told.set_exception(WorkerLostError(self._ended or how))

        threading.Thread(target=listen, daemon=True).start()
        return told

    def close(self, why: str = "") -> None:
        """End the actor."""
        self._ended = why
        with suppress(Exception):  # it is gone, or its cluster is
            self._ray.kill(self._actor, no_restart=True)


def connect_ray(cluster: RayWorkers) -> Any:
    """Connect to a cluster, and return Ray.

    The connection stays for the process' later stages. Raises UsageError if Ray is not installed, or the cluster cannot
    be reached.
    """
    for name, value in QUIET_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if not cluster.place:
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # or Ray would write one into the user's home
    try:
        import ray
    except ModuleNotFoundError:
        raise UsageError(f'--on "{cluster.said}": ' + missing_modules_message("ray")) from None
    if ray.is_initialized():
        return ray
    if cluster.place:
        host, _, port = cluster.place.rpartition(":")
        try:  # Ray itself would try for a minute where nobody listens, and end the process
            socket.create_connection((host, int(port)), CONNECT_TIMEOUT_S).close()
        except (OSError, OverflowError) as error:
            what = f"there is no cluster ({getattr(error, 'strerror', None) or error}); start one with ray start --head"
            raise UsageError(f'--on "{cluster.said}": {what}') from None
    ours = {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES, "_node_ip_address": "127.0.0.1"}
    given: dict[str, Any] = {"address": cluster.place} if cluster.place else {"address": "local", **ours}
    before = signal.getsignal(signal.SIGTERM)
    try:
        with _hide_environment_secrets():
            ray.init(**given, log_to_driver=False, logging_level="CRITICAL")
    except (ray.exceptions.RayError, ConnectionError, RuntimeError, ValueError, OSError) as error:
        why = f"{type(error).__name__}: {shorten_text(' '.join(str(error).split()), 300)}"
        raise UsageError(f'--on "{cluster.said}": connecting to the cluster failed: {why}') from None
    finally:
        signal.signal(signal.SIGTERM, before)  # Ray's own would end the run without a report
    # It prints to stdout what happens to nodes, whatever it is told; the pool notes what of that matters.
    ray._private.worker.print_to_stdstream = lambda *_, **__: None
    return ray


@contextmanager
def _hide_environment_secrets() -> Iterator[None]:
    """Hide secrets in this process' environment from processes that start. Ray's own stay."""
    names = [name for name in os.environ if is_secret(name) and not name.startswith("RAY_")]
    held = {name: os.environ.pop(name) for name in names}
    try:
        yield
    finally:
        os.environ.update(held)
