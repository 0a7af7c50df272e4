"""The `jepack` command, also as `python -m jepack`: Ctrl-C ends it in a word, from its first import on."""

import sys


def main() -> None:
    try:
        from jepack import cli  # a second of libraries

        cli.main()
    except KeyboardInterrupt:
        sys.stderr.write("Stopped.\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
