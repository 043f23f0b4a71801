# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The command ``anople`` with all its subcommands, see :mod:`.station` for how they run."""

import sys
from collections.abc import Sequence

from . import compare, convert, doctor, exports, models, page, qualify, station

COMMANDS: station.Commands = {
    "teach": (models.teach_options, models.teach),
    **station.COMMANDS,
    "threshold": (models.threshold_options, models.threshold),
    "qualify": (qualify.qualify_options, qualify.qualify),
    "learn-more": (models.learn_more_options, models.learn_more),
    "export": (exports.export_options, exports.export),
    "check": (exports.check_options, exports.check),
    "page": (page.page_options, page.page),
    "compare": (compare.compare_options, compare.compare),
    "report": (compare.report_options, compare.report),
    "convert": (convert.convert_options, convert.convert),
    "import": (convert.import_options, convert.import_data),
    "doctor": (doctor.doctor_options, doctor.doctor),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand with these arguments or those of the process; return the exit code, see :func:`.station.run`."""
    return station.run(COMMANDS, arguments)


if __name__ == "__main__":
    sys.exit(main())
