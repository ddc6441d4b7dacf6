#!/usr/bin/env python3
"""Checks infra/ as far as that goes without Azure: `python infra/check/check.py`. Ends with 1 when a rule is broken.

Needs what infra/check/requirements.txt lists. The Bicep compiler itself runs in CI.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import around  # noqa: E402
import bicep  # noqa: E402
import expected  # noqa: E402
from rules import RULES  # noqa: E402


def main() -> int:
    """Prints each broken rule and a closing line."""
    root = Path(__file__).resolve().parents[2]
    try:
        files = bicep.load(root / "infra")
    except bicep.BicepError as error:
        print(error)
        return 1
    problems = [problem for rule in RULES for problem in rule(files)]
    problems += around.check(root, files[root / "infra" / "main.bicep"])
    problems += expected.check(root, files)
    for problem in problems:
        print(problem.replace(f"{root}/", ""))
    print(f"{len(files)} Bicep files, {len(RULES)} rules, those around them, {len(expected.EXPECTED)} things expected, {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
