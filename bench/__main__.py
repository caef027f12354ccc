"""``python -m bench`` is the command ``moatbench``."""

from bench.cli.main import main

if __name__ == "__main__":
    main()
