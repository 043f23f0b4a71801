#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# paho-mqtt: a message that `publish` refuses because the connection is gone is delivered all the same, once it is back.
#
# Guess: `publish(..., qos=1)` after the broker went away returns MQTT_ERR_NO_CONN, and `wait_for_publish` raises RuntimeError "Message
# publish failed: The client is not currently connected": the message was not taken, and whoever wants it delivered publishes again.
# Seen: rc and the exception are as guessed, yet the client has queued the message and sends it when it connects again. A program that
# publishes anew after the exception delivers twice; one that first publishes newer values sees the old one arrive among them.
# Who is hurt: a gateway with its own queue of rows for a controller: retries become copies, and order is lost.
# What helps: a new client per attempt (its queue dies with it), or leave all retries to paho and never publish a value twice.
# paho-mqtt 2.1.0, paho/mqtt/client.py (`publish`, `MQTTMessageInfo.wait_for_publish`); broker: amqtt 0.11.4.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/environment"
"$work/environment/bin/pip" install --quiet --disable-pip-version-check paho-mqtt==2.1.0 amqtt==0.11.4
cd "$work"
"$work/environment/bin/python" -W ignore - <<'PYTHON'
import asyncio
import logging
import socket
import threading
import time
from importlib.metadata import version

from amqtt.broker import Broker
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

logging.disable(logging.CRITICAL)
print("paho-mqtt", version("paho-mqtt"), "amqtt", version("amqtt"))
with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    port = probe.getsockname()[1]
loop = asyncio.new_event_loop()
threading.Thread(target=loop.run_forever, daemon=True).start()


def do(coroutine):
    return asyncio.run_coroutine_threadsafe(coroutine, loop).result(30)


async def start():
    broker = Broker({"listeners": {"default": {"type": "tcp", "bind": f"127.0.0.1:{port}"}}})
    await broker.start()
    return broker


def subscriber(received):
    client, ready = Client(CallbackAPIVersion.VERSION2), threading.Event()
    client.on_message = lambda _client, _data, message: received.append(message.payload.decode())
    client.on_subscribe = lambda *_: ready.set()
    client.connect("127.0.0.1", port)
    client.subscribe("line", qos=1)
    client.loop_start()
    assert ready.wait(20)
    return client


broker = do(start())
sender = Client(CallbackAPIVersion.VERSION2)
sender.reconnect_delay_set(3, 3)
sender.connect("127.0.0.1", port)
sender.loop_start()
sender.publish("line", "0", qos=1).wait_for_publish(20)
do(broker.shutdown())
end = time.monotonic() + 20
while sender.is_connected() and time.monotonic() < end:
    time.sleep(0.1)

info = sender.publish("line", "refused", qos=1)
try:
    info.wait_for_publish(1)
    answer = "no exception"
except RuntimeError as error:
    answer = f"RuntimeError: {error}"
print("publish without a connection: rc", int(info.rc), "-", answer)
assert int(info.rc) == 4
assert answer.startswith("RuntimeError")

received = []
broker = do(start())
listener = subscriber(received)
end = time.monotonic() + 30
while not received and time.monotonic() < end:
    time.sleep(0.1)
print("received after the broker is back:", received)
assert received == ["refused"]
PYTHON
