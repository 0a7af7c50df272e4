"""What can go wrong for a user. Every message says what was found, what is needed, what to do."""

from collections.abc import Iterable


class JepackError(Exception):
    """Base of every error meant for the user; the command line prints it without a traceback."""

    exit_code = 1


class ConfigError(JepackError, ValueError):
    """An option or a combination of options cannot work."""

    exit_code = 2


class DataError(JepackError):
    """The images cannot be used as they are."""

    exit_code = 3


class DepthError(DataError):
    """A picture's depth is lost by the library that reads it, so no window can apply to its values."""


class AxisError(DataError):
    """An array's shape does not tell which axis holds the channels: the user has to."""


class TooLargeError(DataError):
    """An image is above the limit of the server; own images are made to fit, see oversize.py."""


class SourceError(DataError):
    """Images are out of reach for now: a network fault or a full disk, not a bad image."""


class ArtifactError(JepackError):
    """A bundle, checkpoint, export or index is missing, damaged, or does not fit."""

    exit_code = 4


class GateError(ArtifactError):
    """A gate refused an encoder or an export."""

    exit_code = 5


class ServerError(JepackError):
    """A server did not start, did not answer, or refused a request."""

    exit_code = 6


class DependencyError(JepackError):
    """A library, program or environment that the command needs is missing."""

    exit_code = 7


class DecoderError(DataError, DependencyError):
    """An image needs a library that is not installed: passed over like any bad image, not fatal."""

    exit_code = 7


class TrainingError(JepackError):
    """Training cannot go on: collapse, non-finite values, divergence."""

    exit_code = 8


def listed(bad: Iterable[tuple[str, str]], most: int = 10) -> str:
    """Names and reasons, a line for each; images that fail alike, for want of a library say, share one."""
    alike: dict[str, list[str]] = {}
    for name, reason in bad:
        alike.setdefault(reason, []).append(name)
    lines = [
        f"  - {names[0]}{f' and {len(names) - 1:,} more' if names[1:] else ''}: {reason}"
        for reason, names in list(alike.items())[:most]
    ]
    more = sum(len(names) for names in list(alike.values())[most:])
    return "\n".join([*lines, *([f"  and {more:,} more"] if more else [])])
