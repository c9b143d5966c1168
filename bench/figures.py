"""The figures, drawn from records and from what papers published: python -m bench.figures

    python -m bench.figures --list           every figure, how much of it is there, and what runs the rest
    python -m bench.figures                  all that have something to show, into results/figures/
    python -m bench.figures dit-scaling --format svg

Imports no torch.
"""

from __future__ import annotations

import sys
from pathlib import Path

from bench import trends
from bench.records.record import read_all
from bench.series import Figure
from bench.terminal.cli import Parser


def main(argv: list[str] | None = None) -> int:
    """Draw figures, or list them; status 2 for what a user got wrong."""
    parser = Parser(prog="python -m bench.figures", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these (default: all that can be drawn)")
    parser.add_argument("--list", action="store_true", help="every figure, what it has, and the command for the rest")
    parser.add_argument("--results", default="results", metavar="DIR", help="results folder (default: results)")
    parser.add_argument("--out", default="", metavar="DIR", help="where to (default: figures/ in the results folder)")
    parser.add_argument("--format", default="png", choices=("png", "svg"), help="default: png")
    flags = parser.parse_args(argv)
    try:
        results = Path(flags.results)
        if not results.is_dir():
            raise ValueError(f"{flags.results} is no folder; name a results folder with --results")
        found = trends.everything(read_all(results), flags.names)
        if flags.list:
            print("\n".join(map(listed, found)))
            return 0
        _refuse_empty([f for f in found if f.name in flags.names])
        for figure in found:
            if figure.panels:
                print(_draw(figure, Path(flags.out) if flags.out else results / "figures", flags.format))
            else:
                print(f"left out: {_empty(figure)}", file=sys.stderr)
    except (ValueError, OSError) as error:
        print(f"bench.figures: {error}", file=sys.stderr)
        return 2
    return 0


def _refuse_empty(asked: list[Figure]) -> None:
    for figure in asked:
        if not figure.panels:
            raise ValueError(_empty(figure))


def _empty(figure: Figure) -> str:
    return f"{figure.name} has nothing to show yet; run {figure.missing.partition('  #')[0]}"


def _draw(figure: Figure, out: Path, kind: str) -> Path:
    from bench import draw

    path = out / f"{figure.name}.{kind}"
    path.parent.mkdir(parents=True, exist_ok=True)
    draw.save(figure, path, kind)
    return path


def listed(figure: Figure) -> str:
    """A figure in some lines: its name, what it shows, its panels, and the commands for what is missing."""
    kinds = [s.kind for panel in figure.panels for s in panel.series[:1]]
    there = ", ".join(f"{kinds.count(kind)} {kind}" for kind in ("published", "measured") if kind in kinds)
    lines = [f"{figure.name:<32}{figure.title} (panels: {there or 'none yet'})"]
    lines += [f"    {command}" for command in figure.missing.splitlines()]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
