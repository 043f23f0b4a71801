# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Signals: rows of judged images that reach a service, a broker or a controller, in order and at least once.

A row is on the disk before it is sent and is kept until its receiver has acknowledged it: neither a receiver that is
down nor a process that is killed loses one. One that was sent but not acknowledged is sent again, with the same
``delivery`` number, by which a receiver can tell.
"""

import json
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from anople_anomalib.utils.lines import sole_writer

from .signals import Receiver, receiver_of

logger = logging.getLogger(__name__)

_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 30.0  # seconds, after a row was refused


class Outbox:
    """Rows on the disk until every receiver has taken them, and a thread for each receiver that sends them in order.

    Args:
        file: The outbox, an SQLite file that is made if missing; rows of an earlier process are sent first.
        receivers: Receivers by their addresses.
    """

    def __init__(self, file: str | Path, receivers: Mapping[str, Receiver]) -> None:
        self._file, self._receivers = Path(file), dict(receivers)
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with self._named(), self._open() as database:
            database.execute("CREATE TABLE IF NOT EXISTS rows (number INTEGER PRIMARY KEY AUTOINCREMENT, row TEXT)")
            database.execute("CREATE TABLE IF NOT EXISTS taken (receiver TEXT PRIMARY KEY, number INTEGER)")
            for address in self._receivers:  # a new receiver gets the rows from now on
                newest = "SELECT ?, coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'rows'), 0)"
                database.execute(f"INSERT OR IGNORE INTO taken {newest}", [address])
            behind = "SELECT receiver FROM taken WHERE number < (SELECT max(number) FROM rows)"
            if others := {address for (address,) in database.execute(behind)} - self._receivers.keys():
                logger.warning("Rows wait in '%s' for %s, to whom this run sends none.", self._file, ", ".join(others))
            self._database = self._open()
        self._more, self._closing, self._ending = threading.Condition(), threading.Event(), threading.Event()
        self._threads = [
            threading.Thread(target=self._deliver, args=item, daemon=True) for item in self._receivers.items()
        ]
        for thread in self._threads:
            thread.start()

    def put(self, row: Mapping[str, Any]) -> None:
        """Keep a row for all receivers; when this returns it is on the disk."""
        with self._more:
            with self._named(), self._database:
                self._database.execute("INSERT INTO rows (row) VALUES (?)", [json.dumps(row)])
            self._more.notify_all()

    def close(self, seconds: float = 5.0) -> int:
        """Give the receivers some seconds to take the rest, and end; return how many rows at least one has not taken.

        These are sent when the outbox is opened again.
        """
        deadline = time.monotonic() + seconds
        self._closing.set()  # a receiver that is back gets its rows now, not after a pause that is longer than this
        while (left := self._left()) and time.monotonic() < deadline:
            time.sleep(0.02)
        self._ending.set()
        with self._more:
            self._more.notify_all()
        for thread in self._threads:
            thread.join(max(0.1, deadline - time.monotonic()))
        self._database.close()
        return left

    def _left(self) -> int:
        """Return the number of rows that are not yet taken by all."""
        with self._more:
            positions = dict(self._database.execute("SELECT receiver, number FROM taken"))
            first = min((positions[address] for address in self._receivers), default=0)
            return int(self._database.execute("SELECT count(*) FROM rows WHERE number > ?", [first]).fetchone()[0])

    def _deliver(self, address: str, receiver: Receiver) -> None:
        """Send rows in order until the end; a row that is refused is sent again after a pause."""
        failures, database = 0, self._open()
        while not self._ending.is_set():
            position = "SELECT number FROM taken WHERE receiver = ?"
            query = f"SELECT number, row FROM rows WHERE number > ({position}) ORDER BY number LIMIT 1"  # noqa: S608
            try:
                if found := database.execute(query, [address]).fetchone():
                    number, row = found
                    receiver.send({**json.loads(row), "delivery": number})
                    with database:
                        taken = "UPDATE taken SET number = max(number, ?) WHERE receiver = ?"
                        database.execute(taken, [number, address])
                        database.execute("DELETE FROM rows WHERE number <= (SELECT min(number) FROM taken)")
            except Exception as error:  # noqa: BLE001  # whatever is wrong at either end, the row is kept
                if not failures:
                    logger.warning("%s does not take rows (%s): they are kept and sent later.", address, error)
                if self._closing.wait(min(_LONGEST_PAUSE, _FIRST_PAUSE * 2**failures)):
                    self._ending.wait(_FIRST_PAUSE)
                failures += 1
                continue
            if failures:
                logger.warning("%s takes rows again.", address)
            failures = 0
            if found is None:
                with self._more:
                    self._more.wait(0.5)
        receiver.close()
        database.close()

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Name the file where the database cannot take a row."""
        try:
            yield
        except sqlite3.Error as error:
            msg = f"'{self._file}' cannot keep rows for their receivers ({error}): make room, or move it away."
            raise OSError(msg) from error

    def _open(self) -> sqlite3.Connection:
        """Open the file so that a row is on the disk when it is committed."""
        database = sqlite3.connect(self._file, timeout=60, check_same_thread=False)
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        return database


@contextmanager
def delivered(folder: Path, addresses: Iterable[str]) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Deliver rows within the block, and wait at its end a few seconds for the receivers.

    Args:
        folder: Folder of the verdicts, where the outbox lies.
        addresses: Addresses of the receivers, see :mod:`.signals`.

    Yields:
        A function that keeps a row for all receivers; one that does nothing without an address.

    Raises:
        ImportError: If the library of a receiver is not installed.
        ValueError: If an address is none.
        BlockingIOError: If another process sends rows from this folder.
        OSError: If the outbox cannot be written.
    """
    receivers = {address: receiver_of(address) for address in addresses}
    if not receivers:
        yield lambda _row: None
        return
    with sole_writer(folder / "signals"):  # two would send each row twice, and in no order
        outbox = Outbox(folder / "signals.sqlite", receivers)
        try:
            yield outbox.put
        finally:
            if left := outbox.close():
                logger.warning("%d rows wait in '%s' and are sent at the next start.", left, folder / "signals.sqlite")
