"""Count the networks of records again: python -m bench.records.recount FILE ...

Prints one line of JSON per file: {params, macs}; {wrong} if the network cannot be built; {unknown} if its data set is
not on this machine, so that the shape of its input is not known.  `bench.leaderboard --check` runs it as a process,
because it imports no torch itself.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from bench.config import overrides
from bench.costs import counting
from bench.experiments import presets
from bench.records import record


def recount_network(path: Path) -> dict[str, Any]:
    """Count the network of a record."""
    config = overrides.config_from_dict(record.read_record(path).config)
    try:
        io = presets.network_io(config)
    except ValueError as error:
        return {"unknown": str(error)}
    try:
        counted = counting.cost_of_config(config, io)
    except (ValueError, TypeError, RuntimeError) as error:
        return {"wrong": " ".join(str(error).split())}
    return {"params": counted.params, "macs": counted.macs}


def main(argv: list[str] | None = None) -> int:
    for name in sys.argv[1:] if argv is None else argv:
        try:
            print(json.dumps(recount_network(Path(name))), flush=True)
        except ValueError as error:
            print(f"bench.records.recount: {error}", file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
