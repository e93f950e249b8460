"""``python -m gankern`` is the command ``gankern``."""

import sys

from gankern.cli import main

if __name__ == "__main__":
    sys.exit(main())
