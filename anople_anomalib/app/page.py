# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The page: Gradio's controls, each bound to an action."""

from collections.abc import Callable
from typing import Any, Literal

import gradio as gr

from anople_anomalib.presets import preset_names, read_preset
from anople_anomalib.utils.palette import BLUE

from . import drawing
from . import intake as taking
from .actions import FULL, RATES, SHORT, Actions, View, add_samples, allow, ask_samples, chosen, correct
from .messages import message_of
from .samples import SAMPLES
from .session import OFFLINE
from .uploads import MAX_GOOD

LOWEST = 1e-5
"""Where the threshold's slider ends; a threshold must be positive."""
TITLE = "AnoPLe: show it good parts, then ask"
CSS = """
.anople-cards {list-style: none; padding: 0; display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 13rem), 1fr))}
.anople-card {border: 1px solid var(--border-color-primary); border-left: .5rem solid #0072B2; padding: .5rem;
  border-radius: .5rem; color: var(--body-text-color)}
.anople-card.anople-bad {border-left-color: #D55E00}
.anople-card p {margin: .2rem 0; overflow-wrap: anywhere; color: var(--body-text-color)}
.anople-layers {position: relative; line-height: 0}
.anople-layers > img {width: 100%; height: auto; display: block}
.anople-layers > .anople-heat, .anople-layers > svg {position: absolute; inset: 0; width: 100%; height: 100%}
.anople-heat {opacity: var(--anople-heat, .4)}
.anople-scale {width: 100%} .anople-axis {stroke: currentColor; stroke-width: 1}
.anople-limit {stroke: currentColor; stroke-width: 2; stroke-dasharray: 3 2}
.anople-good {fill: #0072B2; stroke: #fff; stroke-width: .7}
.anople-thumbnails {display: flex; flex-wrap: wrap; gap: .5rem} .anople-thumbnails img {height: 6rem}
.anople-message {padding: .5rem .8rem; border-left: .3rem solid #0072B2; color: var(--body-text-color)}
.anople-error {border-left-color: #D55E00; font-weight: 600}
.anople-why {width: 100%; min-width: 40rem} .anople-scroll {overflow-x: auto}
progress {width: 100%; height: 1.2rem; appearance: none; background: var(--border-color-primary); border: 0}
progress::-webkit-progress-bar {background: var(--border-color-primary)}
progress::-webkit-progress-value {background: #0072B2} progress::-moz-progress-bar {background: #0072B2}
.anople-row {align-items: end}
.or, .min_value, .max_value {color: var(--body-text-color) !important}
:focus-visible {outline: 3px solid #E69F00 !important; outline-offset: 2px}
"""
_HEAT_JS = "(v) => { document.documentElement.style.setProperty('--anople-heat', v); return v; }"


def theme() -> gr.themes.Base:
    """Return a theme whose fonts are those of the machine: nothing is fetched."""
    fonts = ["system-ui", "sans-serif"]
    base = gr.themes.Base(primary_hue="blue", font=fonts, font_mono=["ui-monospace", "monospace"])
    blue = {f"button_primary_background_fill{end}": BLUE for end in ("", "_hover", "_dark", "_hover_dark")}
    return base.set(**blue)


def build_page(actions: Actions) -> gr.Blocks:
    """Build the page.

    Args:
        actions: What its controls do.

    Returns:
        The page, to be launched with :func:`theme` and :data:`CSS`.
    """
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gr.Markdown("# Show it good parts, then ask")
        message = gr.HTML(padding=False)
        outputs = [message]
        with gr.Tabs():
            with gr.Tab("1 Teach"):
                teach = _teach_controls()
            with gr.Tab("2 Ask"):
                ask = _ask_controls()
            with gr.Tab("3 Take away"):
                taken = _take_controls()
        outputs += [teach["good"], ask["answers"], ask["threshold"], ask["choice"], taken["commands"]]
        _bind_teach(actions, teach, outputs)
        _bind_ask(actions, ask, outputs)
        for name, make in (("checkpoint", taking.checkpoint), ("openvino", taking.openvino), ("table", taking.table)):
            taken[name].click(actions.take(make), None, [message, taken["file"]], api_name=name)
        page.load(actions.handler(lambda _: ""), None, outputs, api_name=False)
        page.unload(actions.close)
    return page


def _teach_controls() -> dict[str, Any]:
    """Lay out what teaching takes."""
    kinds = ["image"]
    controls: dict[str, Any] = {}
    with gr.Row():
        with gr.Column():
            controls["files"] = gr.File(
                label=f"Good images, 1 to {MAX_GOOD}", file_count="multiple", file_types=kinds, height=160
            )
            with gr.Accordion("Camera", open=False):
                controls["camera"] = gr.Image(label="Camera image", sources=["webcam"], type="filepath")
                controls["shoot"] = gr.Button("Add this image")
            with gr.Row(elem_classes="anople-row"):
                controls["sample"] = gr.Dropdown(list(SAMPLES), value=SAMPLES[0], label="Sample part", min_width=120)
                controls["use"] = gr.Button("Use sample parts")
            controls["good"] = gr.HTML()
            controls["clear"] = gr.Button("Remove the good images")
        with gr.Column():
            controls["part"] = gr.Textbox("object", label="What the part is called", max_lines=1, max_length=60)
            choices = [(read_preset(name)["title"], name) for name in preset_names()]
            controls["preset"] = gr.Radio(choices, value=OFFLINE, label="Preset")
            controls["length"] = gr.Radio([SHORT, FULL], value=SHORT, label="Training")
            with gr.Row():
                controls["train"] = gr.Button("Train", variant="primary")
                controls["stop"] = gr.Button("Stop", variant="stop")
            controls["progress"] = gr.HTML()
    return controls


def _bind_teach(actions: Actions, controls: dict[str, Any], outputs: list[Any]) -> None:
    """Bind what teaching takes."""
    files, camera, handler = controls["files"], controls["camera"], actions.handler
    _bind_upload(files.upload, files, handler(actions.add_good), outputs, "add_good")
    _bind_upload(controls["shoot"].click, camera, handler(actions.add_good), outputs)
    controls["use"].click(handler(add_samples), controls["sample"], outputs, api_name="use_samples").then(
        lambda part: part, controls["sample"], controls["part"], api_name=False
    )
    controls["clear"].click(handler(lambda session: session.clear_good()), None, outputs, api_name="clear_good")
    inputs = [controls["part"], controls["preset"], controls["length"]]
    controls["train"].click(
        actions.teach, inputs, [controls["progress"], *outputs], api_name="teach", concurrency_limit=None
    )
    controls["stop"].click(actions.stop, None, None, api_name="stop", queue=False)


def _bind_upload(
    listen: Callable[..., Any],
    control: gr.File | gr.Image,
    take: Callable[..., View],
    outputs: list[Any],
    api: str | Literal[False] = False,
) -> None:
    """Bind taking in what a control holds, which is emptied by it; what is dropped meanwhile waits its turn."""

    def taken(request: gr.Request, files: Any) -> tuple[Any, ...]:
        """Take the files in and empty the control in one answer, so that none is sent twice."""
        return (*take(request, files), None)

    listen(taken, control, [*outputs, control], api_name=api, trigger_mode="multiple")


def _ask_controls() -> dict[str, Any]:
    """Lay out what asking and correcting take."""
    controls: dict[str, Any] = {}
    with gr.Row():
        controls["files"] = gr.File(label="Images to judge", file_count="multiple", file_types=["image"], height=197)
        controls["folder"] = gr.File(label="A folder of images to judge", file_count="directory", height=197)
        with gr.Column(min_width=160):
            controls["sample"] = gr.Dropdown(list(SAMPLES), value=SAMPLES[0], label="Sample part to judge")
            controls["use"] = gr.Button("Judge sample parts")
            controls["clear"] = gr.Button("Remove the judged images")
    with gr.Row():
        controls["threshold"] = gr.Slider(0, 1, value=0.5, step=LOWEST, label="Threshold", interactive=True)
        controls["rate"] = gr.Dropdown(list(RATES), value=next(iter(RATES)), label="Threshold by allowed false alarms")
        controls["heat"] = gr.Slider(0, 1, value=0.4, step=0.05, label="Opacity of the heat map")
    with gr.Row(elem_classes="anople-row"):
        controls["choice"] = gr.Dropdown([], label="Image, worst first")
        controls["good"] = gr.Button("This is good")
        controls["undo"] = gr.Button("Undo")
        controls["why"] = gr.Button("Why?")
    controls["reason"] = gr.HTML(elem_classes="anople-scroll", padding=False)
    controls["answers"] = gr.HTML(padding=False)
    return controls


def _bind_ask(actions: Actions, controls: dict[str, Any], outputs: list[Any]) -> None:
    """Bind what asking and correcting take."""
    handler, choice = actions.handler, controls["choice"]
    _bind_upload(controls["files"].upload, controls["files"], handler(actions.ask), outputs, "ask")
    _bind_upload(controls["folder"].upload, controls["folder"], handler(actions.ask), outputs)
    controls["use"].click(handler(ask_samples), controls["sample"], outputs, api_name="ask_samples")
    controls["clear"].click(handler(lambda session: session.clear_answers()), None, outputs, api_name="clear_answers")
    move = handler(lambda session, value: session.set_threshold(max(value, LOWEST)))
    place = outputs.index(controls["threshold"])  # the one control that the hand is on

    def moved(request: gr.Request, value: float) -> tuple[Any, ...]:
        """Set the threshold, and show all but the control that is being moved."""
        shown = move(request, value)
        return (*shown[:place], *shown[place + 1 :])

    controls["threshold"].input(
        moved,
        controls["threshold"],
        [*outputs[:place], *outputs[place + 1 :]],
        api_name="set_threshold",
        trigger_mode="always_last",
        show_progress="hidden",
    )
    controls["rate"].input(handler(allow), controls["rate"], outputs, api_name="allow_false_alarms")
    controls["heat"].input(None, controls["heat"], controls["heat"], js=_HEAT_JS, api_name=False)
    controls["good"].click(handler(correct), choice, outputs, api_name="this_is_good")
    controls["undo"].click(handler(lambda session: session.undo()), None, outputs, api_name="undo")

    def why(request: gr.Request, wanted: str) -> tuple[Any, Any]:
        """Draw the reason of a verdict."""
        try:
            session = actions.session(request)
            return "", drawing.reason(session, chosen(session, wanted))
        except Exception as error:  # noqa: BLE001  # one message, whatever it is
            return f'<p role="alert" class="anople-message anople-error">{message_of(error)}</p>', ""

    controls["why"].click(why, choice, [outputs[0], controls["reason"]], api_name="why")


def _take_controls() -> dict[str, Any]:
    """Lay out what can be taken away."""
    with gr.Row():
        controls: dict[str, Any] = {
            "checkpoint": gr.Button("Checkpoint"),
            "openvino": gr.Button("OpenVINO model"),
            "table": gr.Button("Table of verdicts (CSV)"),
        }
    controls["file"] = gr.File(label="File to download", interactive=False)
    controls["commands"] = gr.Code(
        label="The command lines that do the same", language=None, interactive=False, wrap_lines=True
    )
    return controls
