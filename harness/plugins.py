"""Plugin discovery and a registry of the provided callables.

Plugins are entry points, `-p` modules, and the harnessfile beside the suite.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pluggy

from harness import capabilities, hookspec, plugin_errors, schema
from harness.answers import keys
from harness.errors import PLUGIN_ERRORS, Mistakes, UsageError, did_you_mean
from harness.files import HARNESSFILE

CALLS = {  # what the callables of a kind are given beside their options: by position, by name
    "loader": (("refs",), ()),
    "adapter": ((), ()),
    "trainer": (("ref", "adapter", "rows", "out"), ("progress", "seed")),
    "evaluator": (("subject", "samples"), ()),
    "marker": (("samples", "answers", "baseline_answers"), ("marking",)),  # an evaluator that marks
    "exporter": (("ref", "to"), ()),
}
HOOKS = {  # kind of callable -> the hook that provides it
    "loader": "harness_loaders",
    "adapter": "harness_adapters",
    "trainer": "harness_trainers",
    "evaluator": "harness_evaluators",
    "exporter": "harness_exporters",
    "saboteur": "harness_saboteurs",
    "check": "harness_checks",
    "workers": "harness_worker_backends",
}


@dataclass(frozen=True)
class Provided:
    """A callable that a plugin provides under a name."""

    kind: str
    name: str
    plugin: str
    function: Callable[..., Any]

    @cached_property
    def capabilities(self) -> Any:
        """Optional capabilities of the callable, see `harness.capabilities`."""
        return capabilities.KINDS[self.kind].of(self.function)


class Plugins:
    """The loaded plugins, and everything they provide by kind and name."""

    def __init__(self, manager: pluggy.PluginManager, asked: Sequence[str] = ()) -> None:
        self.manager, self.asked = manager, tuple(asked)
        self.hook = manager.hook
        idle = [name for name, plugin in manager.list_name_plugin() if not manager.get_hookcallers(plugin)]
        self.idle = [f'plugin "{name}" has no hooks; is @hookimpl missing?' for name in idle]
        self.provided = self._collect_provided_functions()
        self._codes: dict[tuple[tuple[str, str], ...], str] = {}

    def find(self, kind: str, name: str) -> Provided:
        """Return the callable provided under `name`.

        Raises UsageError if there is none, with similar or known names and possible causes: plugins without hooks, and
        entry points in another group.
        """
        if found := self.provided.get((kind, name)):
            return found
        # Entry points that are of a group beside ours, for a name that nothing provides.
        points = [(dist.name, p) for dist in importlib.metadata.distributions() for p in dist.entry_points]
        ours = {p.group for name, p in points if name == keys.DISTRIBUTION} | {"harness.notebook"}
        near = [p for _, p in points if keys.GROUP in p.group and p.group not in ours]
        lost = [f'the entry point "{p.name}" is in the group "{p.group}"; move it to "{keys.GROUP}"' for p in near]
        why = "".join(f"; {line}" for line in [*self.idle, *lost])
        raise UsageError(f'no {kind} "{name}"{did_you_mean(name, [n for k, n in self.provided if k == kind])}{why}')

    def foreign_adapter(self) -> Provided:
        """Return an adapter plugin that can read external adapters.

        It is for a suite without [adapter]; of several plugins the first by name is taken. Raises UsageError if there
        is none.
        """
        able = (p for p in self.provided.values() if p.kind == "adapter" and p.capabilities.reads_foreign)
        if found := min(able, key=lambda p: p.name, default=None):
            return found
        raise UsageError(
            "no adapter plugin can load external adapters; do not block it with -p no:, or add an [adapter]"
        )

    def is_own(self, provided: Provided) -> bool:
        """Return whether a callable's plugin ships with the harness."""
        return provided.function.__module__.partition(".")[0] == _map_own_plugins_to_packages().get(provided.plugin)

    def third_party_names(self) -> list[str]:
        """Return the names of plugins that do not ship with the harness.

        A suite runs their code.
        """
        found, own = self.manager.list_name_plugin(), _map_own_plugins_to_packages()
        named = [(name, getattr(plugin, "__name__", type(plugin).__module__)) for name, plugin in found]
        return [name for name, module in named if module.partition(".")[0] not in ("harness", own.get(name))]

    def code_digest(self, *provided: Provided) -> str:
        """Return one sha256 for the code of the harness and its plugins.

        All plugins count, or only those that provide the given callables.
        """
        asked = provided or tuple(self.provided.values())
        key = tuple((p.kind, p.name) for p in provided)
        if key not in self._codes:
            plugins = [self.manager.get_plugin(p.plugin) for p in asked]
            readers = [] if provided else [i.plugin for i in self.hook.harness_read_samples.get_hookimpls()]
            self._codes[key] = keys.digest_code([*plugins, *readers, *(p.function for p in asked)])
        return self._codes[key]

    def _collect_provided_functions(self) -> dict[tuple[str, str], Provided]:
        mistakes = Mistakes()
        found: dict[tuple[str, str], Provided] = {}
        for kind, hook in HOOKS.items():
            for implementation in getattr(self.manager.hook, hook).get_hookimpls():
                plugin = implementation.plugin_name
                theirs = implementation.function.__module__.partition(".")[0] in plugin_errors.PLUGIN_MODULES
                provided = implementation.function()
                pairs = provided.items() if isinstance(provided, dict) else [("", None)]
                if not all(isinstance(name, str) and callable(function) for name, function in pairs):
                    mistakes.add(f'plugin "{plugin}"', f"{hook} did not return a dict of name -> callable")
                    continue
                for name, function in provided.items():
                    where = f'{kind} "{name}"'
                    if earlier := found.get((kind, name)):
                        both = f'"{earlier.plugin}" and "{plugin}"'
                        mistakes.add(where, f"is provided by two plugins, {both}; block one with -p no:NAME")
                    if theirs and not (module := str(getattr(function, "__module__", ""))).startswith("harness."):
                        plugin_errors.PLUGIN_MODULES.add(module.partition(".")[0])
                    found[kind, name] = one = Provided(kind, name, plugin, function)
                    if wrong := list(capabilities.find_mistakes(kind, function)):
                        mistakes.messages.extend(
                            f"{where}: {plugin_errors.plugin_error(function, f': {what}')}" for what in wrong
                        )
                        continue
                    given, names = CALLS.get(
                        "marker" if kind == "evaluator" and one.capabilities.marks else kind, (None, ())
                    )
                    if given is not None and (what := schema.find_signature_error(function, given, names)):
                        mistakes.add(where, str(plugin_errors.plugin_error(function, what)))
        mistakes.raise_errors()
        return found


def _map_own_plugins_to_packages() -> dict[str, str]:
    """Map the plugins that ship with the harness to their packages.

    The map is empty if the harness is not installed as a distribution.
    """
    try:
        points = importlib.metadata.distribution(keys.DISTRIBUTION).entry_points
    except importlib.metadata.PackageNotFoundError:
        return {}
    return {p.name: p.module.partition(".")[0] for p in points if p.group == keys.GROUP}


def load_plugins(suite: Path | None, asked: Sequence[str] = (), *, elsewhere: bool = False) -> Plugins:
    """Load entry points, `-p` modules and the harnessfile, in this order.

    `asked` holds names of modules, or `no:NAME` to leave one out, which need not exist `elsewhere`, in a worker. Raises
    UsageError if a plugin cannot be imported, has a hook that does not exist or lacks @hookimpl, has the name of
    another, or provides something invalid.
    """
    manager = pluggy.PluginManager("harness")
    manager.add_hookspecs(hookspec)
    blocked = {name.removeprefix("no:") for name in asked if name.startswith("no:")}
    points = sorted(importlib.metadata.entry_points(group=keys.GROUP), key=lambda p: p.name)
    known = [*(point.name for point in points), HARNESSFILE]
    if odd := sorted(blocked.difference(known)) if not elsewhere else []:
        raise UsageError(f'-p no:{odd[0]}: there is no plugin "{odd[0]}"{did_you_mean(odd[0], known)}')
    own = {"harness", *_map_own_plugins_to_packages().values()}
    mine = [name for name in asked if not name.startswith("no:")]
    plugin_errors.PLUGIN_MODULES |= {
        n.partition(".")[0] for n in (*(p.module for p in points), *mine, "harnessfile")
    } - own
    for point in points:
        if point.name not in blocked:
            _register_plugin(manager, point.name, point.load)
    for name in mine:
        _register_plugin(manager, name, partial(importlib.import_module, name))
    harnessfile = suite.parent / HARNESSFILE if suite else None
    if harnessfile and harnessfile.is_file() and HARNESSFILE not in blocked:
        _register_plugin(manager, str(harnessfile), partial(_import_harnessfile, harnessfile))
    hooks, mistakes = [name for name in vars(hookspec) if name.startswith("harness_")], Mistakes()
    for name, plugin in manager.list_name_plugin():  # a hook nobody calls would be a plugin that silently does nothing
        for attribute, hook in vars(plugin).items() if isinstance(plugin, ModuleType) else ():
            if attribute.startswith("harness_") and callable(hook):
                if attribute not in hooks:
                    mistakes.add(f'plugin "{name}"', f'"{attribute}" is not a hook{did_you_mean(attribute, hooks)}')
                elif not hasattr(hook, "harness_impl"):
                    mistakes.add(
                        f'plugin "{name}"',
                        str(plugin_errors.plugin_error(hook, " is never called; is @hookimpl missing?")),
                    )
    mistakes.raise_errors()
    return Plugins(manager, asked)


def _register_plugin(manager: pluggy.PluginManager, name: str, load: Callable[[], Any]) -> None:
    try:
        plugin = load()
    except SyntaxError as error:
        raise UsageError(f"{error.filename}:{error.lineno}: {error.msg}; the plugin cannot be loaded") from None
    except PLUGIN_ERRORS as error:
        why = plugin_errors.error_location(error) or f"{type(error).__name__}: {error}"
        raise UsageError(f'plugin "{name}": cannot be imported: {why}') from error
    try:
        manager.register(plugin, name)
    except ValueError:
        raise UsageError(f'plugin "{name}": is loaded twice; rename one of the two') from None
    except pluggy.PluginValidationError as error:
        raise UsageError(f'plugin "{name}": {" ".join(str(error).split())}') from None


def _import_harnessfile(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("harnessfile", path)
    assert spec and spec.loader  # a .py file always has both
    module = importlib.util.module_from_spec(spec)
    sys.modules["harnessfile"] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module
