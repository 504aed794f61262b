"""``python -m keras_fim``."""

import sys

from keras_fim.cli import main

if __name__ == "__main__":
    sys.exit(main())
