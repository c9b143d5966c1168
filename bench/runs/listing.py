"""Text of --list and of the settings in --help."""

from __future__ import annotations

from architectures import registry
from bench.cluster import profiles
from bench.config.fields import iterate_settings
from bench.config.schema import RunConfig
from bench.data import sources
from bench.experiments import recipes, suites


def describe_settings() -> str:
    """Return the help of all settings with type, default and docstring, by section."""
    lines = ["settings for --set KEY=VALUE; in brackets the default at paper scale on the shared track."]
    lines += [
        "Digits and shapes have other defaults (bench/experiments/presets.py); config.json of a run holds its values."
    ]
    section = None
    for key, kind, default, doc in iterate_settings(RunConfig):
        head = key.rpartition(".")[0]
        if head != section:
            lines.append(f"\n  {head or 'run'}")
            section = head
        shown = "" if default in ("", {}) else f" [{default}]"
        lines.append(f"    {key + '=' + kind.upper() if len(kind) < 6 else key + '=':<34} {doc}{shown}")
        if len(kind) >= 6 and "|" in kind:
            lines.append(f"    {'':<34} one of {kind.replace('|', ', ')}")
    return "\n".join([*lines, *profiles.slurm_help_lines()])


def describe_choices() -> str:
    """Return the text of --list: architectures, data sets, recipes and suites."""
    lines = ["architectures and sizes"]
    for name in registry.names():
        entry = registry.entry(name)
        lines.append(f"  {name:<10} {' '.join(entry.sizes) or '(by --set model.args...)'}   {entry.paper}")
    lines += ["", "data sets"]
    for name, s in sources.KNOWN_SOURCES.items():
        shape = f"{s.channels}x{s.size}x{s.size}"
        lines.append(f"  {name:<22} {shape:<10} {s.num_classes:>4} classes   {s.about}")
    lines += [
        "  shapes-N               3xNxN        10 classes   shapes at any resolution",
        *sources.PATH_HELP.splitlines(),
    ]
    lines += ["", "recipes: --track shared (shared, and its toys on digits and shapes), --track native (the others)"]
    lines += [f"  {line}".rstrip() for line in recipes.recipe_table().splitlines()]
    lines += ["", "suites"]
    lines += [f"  {name:<18} {suite.about}" for name, suite in suites.SUITES.items()]
    return "\n".join(lines)
