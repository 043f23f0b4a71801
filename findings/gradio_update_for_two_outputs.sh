#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# gradio: one `gr.update` that a function returns for two controls sets the value of the first alone.
#
# Guess: `update = gr.update(value=0.25, maximum=0.5); return update, update` sets value and end of both sliders: it is a plain dict that
# says what changes, and a function may name it as often as it likes, as it may a number.
# Seen: both sliders get the new end, the second keeps its old value. Gradio takes the value out of the dict while it prepares the first
# output (`postprocess_update_dict` pops it), so that the second output finds an update without one. Nothing is logged.
# Who is hurt: pages that show one number in two places, such as a threshold on two tabs: the second slider moves its scale and stays where
# it was, and its next touch sends the stale number.
# What helps: an update of its own for every output.
# gradio 6.31.0, gradio/blocks.py (`postprocess_update_dict`), seen through gradio_client.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/environment"
"$work/environment/bin/pip" install --quiet --disable-pip-version-check gradio==6.31.0 gradio_client==2.7.2
cd "$work"
GRADIO_ANALYTICS_ENABLED=False "$work/environment/bin/python" -W ignore - <<'PYTHON'
from importlib.metadata import version

import gradio as gr
from gradio_client import Client

print("gradio", version("gradio"), "gradio_client", version("gradio_client"))


def shared():
    update = gr.update(value=0.25, maximum=0.5)
    return update, update


def apart():
    return gr.update(value=0.25, maximum=0.5), gr.update(value=0.25, maximum=0.5)


with gr.Blocks() as page:
    sliders = [gr.Slider(0, 1, value=0.9, label=label) for label in ("first", "second")]
    gr.Button("shared").click(shared, None, sliders, api_name="shared")
    gr.Button("apart").click(apart, None, sliders, api_name="apart")
page.launch(prevent_thread_lock=True, quiet=True)
client = Client(page.local_url, verbose=False)
answers = {name: client.predict(api_name=f"/{name}") for name in ("shared", "apart")}
page.close(verbose=False)
for name, (first, second) in answers.items():
    print(name, "- first:", first, "second:", second)
(first, second), own = answers["shared"], answers["apart"]
assert first["value"] == 0.25 and first["maximum"] == second["maximum"] == 0.5
assert "value" not in second
assert all(each["value"] == 0.25 for each in own)
PYTHON
