"""Libraries kept quiet and off the network: no traffic a task does not need, no minutes of retries, no log lines."""

from __future__ import annotations

import logging
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from harness_lm_eval.names import Config

NOISY_LOGGERS = ("lm_eval", "datasets", "evaluate", "huggingface_hub", "httpx", "httpx2", "filelock")
# readers of files, not data sets
FILE_READERS = frozenset({"json", "csv", "text", "parquet", "arrow", "pandas", "xml"})
HUB_TIMEOUT_S = 5.0  # seconds until the hub counts as out of reach
SEED, OTHER_SEED = 0, 1234  # lm_eval's, for tasks that shuffle while they read their data


def needs_hub(config: Config) -> bool:
    """Return whether a task's data or metrics may need the Hub."""
    return has_remote_data(config) or bool(list_foreign_metrics(config))


def has_remote_data(config: Config) -> bool:
    """Return whether a task's data is not in local files. Only its configuration is looked at."""
    path = config.get("dataset_path")
    local = path in FILE_READERS or (isinstance(path, str) and Path(path).exists())
    return not local or "://" in repr(config.get("dataset_kwargs"))


def list_foreign_metrics(config: Config) -> list[str]:
    """Return the metrics that lm_eval would load with `evaluate`. They are not in lm_eval's own registry."""
    from lm_eval.api.registry import metric_registry

    if config.get("process_results") is not None:
        return []
    named = [entry.get("metric") for entry in config.get("metric_list") or ()]
    return [metric for metric in named if isinstance(metric, str) and metric not in metric_registry]


@contextmanager
def allow_network(wanted: bool) -> Iterator[str]:
    """Let the libraries use the network if wanted and reachable.

    Otherwise they look at their caches only. Yields why they may not use it, or an empty text. Counting downloads is
    off either way.
    """
    from datasets import config as datasets_config
    from huggingface_hub import constants

    barred = "" if wanted else "it is not needed"
    if wanted and constants.HF_HUB_OFFLINE:
        barred = "HF_HUB_OFFLINE is set"
    elif wanted and not is_hub_reachable():
        barred = f"{constants.ENDPOINT} cannot be reached"
    offline = bool(barred)
    wished: list[tuple[Any, dict[str, bool]]] = [
        (constants, {"HF_HUB_OFFLINE": offline, "HF_HUB_DISABLE_TELEMETRY": True}),
        (datasets_config, {"HF_HUB_OFFLINE": offline, "HF_UPDATE_DOWNLOAD_COUNTS": False}),
    ]
    if "evaluate" in sys.modules:
        from evaluate import config as evaluate_config

        wished += [(evaluate_config, {"HF_EVALUATE_OFFLINE": offline, "HF_UPDATE_DOWNLOAD_COUNTS": False})]
    before = [(module, {name: getattr(module, name) for name in values}) for module, values in wished]
    try:
        for module, values in wished:
            vars(module).update(values)
        yield barred
    finally:
        for module, values in before:
            vars(module).update(values)


@lru_cache(maxsize=1)
def is_hub_reachable() -> bool:
    """Return whether the hub answers: asked once, since its libraries would try for half a minute per data set."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session  # type: ignore[attr-defined]

    try:
        answered = get_session().head(constants.ENDPOINT, timeout=HUB_TIMEOUT_S)
        return bool(answered.status_code < 500)  # a proxy's 502 is no hub
    except Exception:  # of whichever HTTP library this version has
        return False


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep the libraries' log lines and progress bars off the terminal."""
    import datasets

    levels = {logger: logger.level for logger in map(logging.getLogger, NOISY_LOGGERS)}
    bars = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    for logger in levels:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)
        if not bars:
            datasets.enable_progress_bars()


@contextmanager
def seed_globally() -> Iterator[None]:
    """Seed global random numbers as lm_eval does before reading data. Their states are restored on exit."""
    import numpy as np

    python, numpy = random.getstate(), np.random.get_state()
    random.seed(SEED)
    np.random.seed(OTHER_SEED)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
