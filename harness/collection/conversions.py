"""Exports that make other weights, as collection sees them: which copies there are, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from harness import schema
from harness.claims.gate import PARENT, Gate
from harness.claims.group import grouped
from harness.plugins import Plugins
from harness.suite.tables import RELEASES, Export, Suite, is_reserved, name_error


def with_copies(suite: Suite, plugins: Plugins) -> Suite:
    """Return the suite with a name for every copy, and with gates that only copies can meet kept to them."""
    exports = tuple(replace(e, name=e.name or e.use) if _converts(e, plugins) else e for e in suite.exports)
    exports = tuple(replace(e, path=e.path and str(suite.resolve(e.path))) for e in exports)
    suite = replace(suite, exports=exports)
    about = {g.id for g in suite.gates if g.versus == PARENT or g.eval in suite.compared}
    only = {g.id for g in suite.gates if not g.on and (g.id in about or about.intersection(g.any_of))}
    copies = list(suite.copies)
    return replace(suite, gates=grouped([replace(g, on=copies) if g.id in only else g for g in suite.gates]))


def copy_mistakes(suite: Suite, plugins: Plugins, made: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield (where, what) is wrong with the copies; `made` are the candidates that they may be made of."""
    taken = {*suite.subjects, *made}
    for export in suite.exports:
        exporter = plugins.provided.get(("exporter", export.use))
        if export.path is not None and exporter and not schema.wants(exporter.function, "path"):
            yield export.where, f'"path" names a copy made elsewhere, and "{export.use}" makes its own; remove it'
        if not export.name:
            continue
        if not _converts(export, plugins):
            yield export.where, f'"name" names a copy, and "{export.use}" writes "{export.from_}" as it is; remove it'
            continue
        name = export.name
        if what := name_error(name):
            yield export.where, what
        elif is_reserved(name) or name in RELEASES or name in taken:
            yield export.where, f'name "{name}" is taken; give this copy another with name = "…"'
        elif export.from_ == "adapter":
            yield export.where, f'"{export.use}" makes copies of whole models, and "adapter" is none; from = "merged"'
        elif (why := _uncovered(suite, export)) is not None:
            yield export.where, f'no blocking gate is about "{name}"{why}; what is not gated does not ship'
        taken.add(name)


def parent_mistakes(gate: Gate, suite: Suite) -> Iterator[str]:
    """Yield what is wrong with a gate that compares copies with their parents, by itself or by its eval's `against`."""
    if gate.versus != PARENT and gate.eval not in suite.compared:
        return
    what = f'versus is "{PARENT}"' if gate.versus == PARENT else f'eval "{gate.eval}" is against "{PARENT}"'
    if not suite.copies:
        yield f"{what}, and no [[export]] of the suite makes a copy"
    for candidate in (c for c in gate.on if c not in suite.copies):
        yield f'{what}, and "{candidate}" has none; leave out "on", or name copies'


def _converts(export: Export, plugins: Plugins) -> bool:
    exporter = plugins.provided.get(("exporter", export.use))  # where there is none, who looks at it tells
    return exporter is not None and bool(exporter.about.converts)


def _uncovered(suite: Suite, export: Export) -> str | None:
    """Return why no gate keeps a copy from shipping; a claim about its parent is worth what is known of that."""
    about = {g.id for g in suite.gates if g.versus == PARENT or g.eval in suite.compared}
    if not (blocking := [g for g in suite.gates if g.blocking and g.applies_to(export.name)]):
        return ""
    relative = all(g.id in about or (g.any_of and about.issuperset(g.any_of)) for g in blocking)
    if relative and not any(g.blocking and g.applies_to(export.from_) for g in suite.gates):
        return f' but against "{export.from_}", and none is about that'
    return None
