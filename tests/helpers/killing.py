# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Runs the ``anomalib`` command again and again, and has it killed in the middle of a training run.

``python -m helpers.killing RUN...`` with every RUN as JSON, ``{"arguments": [...], "signal": "SIGKILL", "epoch": 1}``,
prints one line of JSON per run: what it ended with (a negative number for a signal). The slow imports are made once;
each run is a process of its own.
"""

import json
import os
import signal
import sys
import traceback
from typing import Any

import torch
from anomalib.cli import cli

import helpers.miniature  # noqa: F401  # open_clip then knows it by name
from anople_anomalib.anople import AnoPLe


def kill_in(epoch: int, name: str, hook: str = "on_train_batch_end") -> None:
    """Let a training run send itself a signal in a hook of an epoch, or of the validation after it."""
    original = getattr(AnoPLe, hook)

    def with_signal(self: AnoPLe, *args: object) -> None:
        original(self, *args)
        if self.current_epoch == epoch:
            os.kill(os.getpid(), getattr(signal, name))

    setattr(AnoPLe, hook, with_signal)


def run(arguments: list[str], **kill: Any) -> int:
    """Run the command in a copy of this process; its exit code, or the signal that ended it as a negative number."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            torch.set_num_threads(1)
            if kill:
                kill_in(**kill)
            sys.argv = ["anomalib", *arguments]
            cli.main()
            code = 0
        except SystemExit as error:
            code = int(error.code or 0)
        except Exception:  # noqa: BLE001  # the copy must end here
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    codes = [run(**json.loads(each)) for each in sys.argv[1:]]
    print(json.dumps(codes))
