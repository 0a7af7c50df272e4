"""`python -m training DATA ...`: in a checkout, another name of `python -m jepack train DATA ...`."""

import sys

from jepack.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["train"]
    main()
