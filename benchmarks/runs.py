"""A finished run for a benchmark; one that is not there ends the program with one line, before anything is measured."""

import sys
from pathlib import Path
from typing import Any


def load(directory: str | Path) -> tuple[Any, Any, int]:
    """`(model, averaged parameters, step)` of the newest checkpoint; status 2 where it cannot be read.

    As `experiments.cli.program` ends its programs, whose flags need packages that a machine for benchmarks may lack.
    """
    from experiments import loading  # Orbax and the data's own packages
    from experiments.errors import UserError

    try:
        return loading.load(directory)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
