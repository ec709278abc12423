"""The program `bertsmith`, the same as `python -m bertsmith`: it can be stopped while its modules are still loading."""

import sys


def main() -> None:
    """Load the command line and run it. Ctrl-C before that leaves with exit code 130 and one line, as it does later."""
    try:
        from bertsmith.cli import main as run
    except KeyboardInterrupt:
        sys.stderr.write("bertsmith: stopped\n")
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
