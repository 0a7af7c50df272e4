"""`python -m training DATA ...`, the form that torchrun starts."""

import sys

from jepack.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["train"]
    main()
