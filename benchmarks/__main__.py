"""`python -m benchmarks` lists the benchmarks; `python -m benchmarks NAME ...` runs one."""

import importlib
import pkgutil
import sys

import benchmarks


def main() -> int:
    """Run the named benchmark with the remaining arguments; its exit status."""
    names = sorted(m.name for m in pkgutil.iter_modules(benchmarks.__path__) if not m.name.startswith("_"))
    if len(sys.argv) < 2 or sys.argv[1] not in names:
        print(f"Usage: python -m benchmarks NAME, with NAME one of: {', '.join(names)}", file=sys.stderr)
        return 2
    return importlib.import_module(f"benchmarks.{sys.argv.pop(1)}").main() or 0


if __name__ == "__main__":
    sys.exit(main())
