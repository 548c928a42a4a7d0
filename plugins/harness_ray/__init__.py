"""--on ray, --on ray:HOST:PORT: workers on one machine or many, as Ray actors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness import hookimpl

if TYPE_CHECKING:
    from harness import WorkerBackend
    from harness_ray.cluster import RayWorkers


@hookimpl
def harness_worker_backends() -> dict[str, WorkerBackend]:
    return {"ray": workers}


def workers(place: str, *, python: str | None = None) -> RayWorkers:
    """Return workers of the Ray cluster at HOST:PORT. Without a place they are on one of this machine's own."""
    from harness_ray.cluster import RayWorkers

    return RayWorkers(place, python)
