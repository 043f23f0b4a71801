# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""One message for whatever goes wrong, without a path of this machine."""

import logging
import re
from pathlib import Path

logger = logging.getLogger(__name__)

USER_ERRORS = (ValueError, TypeError, RuntimeError, OSError, ImportError)
"""What the package raises with a message for its user."""
_PATH = re.compile(r"(?P<address>https?://\S+)|(?:[A-Za-z]:)?(?:[\\/][^\\/'\"\s,;:()]+){2,}[\\/]?")


class AppError(ValueError):
    """An error with a message for the person in front of the page."""


def without_paths(text: str) -> str:
    """Leave only the last name of every absolute path in a text; addresses of the web stay.

    Args:
        text: A message.

    Returns:
        ``"The image '/tmp/x/a.png' ..."`` becomes ``"The image 'a.png' ..."``.
    """
    return _PATH.sub(lambda found: found["address"] or Path(found[0].replace("\\", "/")).name, text)


def message_of(error: BaseException) -> str:
    """Turn an exception into one message; what only a programmer understands goes to the log.

    Args:
        error: What was raised.

    Returns:
        A short message, without a path of this machine.
    """
    if isinstance(error, AppError):
        return without_paths(str(error))
    logger.error("An action of the page failed.", exc_info=error)
    if isinstance(error, USER_ERRORS) and str(error):
        return without_paths(" ".join(str(error).split()))
    return f"Something went wrong inside ({type(error).__name__}): the log of anople page says more."
