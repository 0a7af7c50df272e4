"""`python -m jepack` is the `jepack` command."""

from jepack.cli import main

if __name__ == "__main__":
    main()
