"""What the commands of this package share."""

from __future__ import annotations

import argparse
import sys
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """argparse that answers a mistake in one sentence, with exit status 2."""

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog.removeprefix('python -m ')}: {message}; see --help", file=sys.stderr)
        raise SystemExit(2)
