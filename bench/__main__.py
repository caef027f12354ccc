"""The command ``moatbench``, also ``python -m bench``."""

import sys


def main() -> None:
    """Run the command line. A broken installation must not end with exit code 1, which means a regression."""
    try:
        from bench.cli.main import main as command
    except ImportError as error:
        print(
            f"moatbench: the installation is incomplete ({error}); install moatbench again", file=sys.stderr
        )
        sys.exit(70)
    command()


if __name__ == "__main__":
    main()
