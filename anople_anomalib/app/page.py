# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The page: Gradio's controls, each bound to an action, and its server."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

try:
    import gradio as gr
except ImportError as error:
    msg = 'The page needs Gradio: pip install "anople-anomalib[app]".'
    raise ImportError(msg) from error

from anople_anomalib.backbones.at_hand import is_at_hand
from anople_anomalib.data.sample_textures import CATEGORIES
from anople_anomalib.presets import preset_names, read_preset
from anople_anomalib.utils.palette import BLUE

from . import actions, proving, taking
from .actions import Sessions, View, with_uploads
from .session import OFFLINE, Session
from .uploads import MAX_GOOD

LOWEST = 1e-5
"""Where the threshold's slider ends; a threshold must be positive."""
_CSS = """
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
.anople-row {align-items: end} .anople-scores svg {background: #fff; max-width: 44rem; width: 100%; height: auto}
.or, .min_value, .max_value {color: var(--body-text-color) !important}
:focus-visible {outline: 3px solid #E69F00 !important; outline-offset: 2px}
"""
_HEAT_JS = "(v) => { document.documentElement.style.setProperty('--anople-heat', v); return v; }"
_PROGRESS = gr.Progress()
_COMMANDS = "The command lines that do the same"
_LIMIT = "Raw score above which a part is not OK"
_RATE = "Threshold by allowed false alarms"


def start(
    folder: Path,
    ckpt_path: Path | None = None,
    host: str = "127.0.0.1",
    port: int | None = None,
    browser: bool = False,
    journal: Path | None = None,
    deliver: Callable[[dict[str, Any]], object] | None = None,
) -> tuple[gr.Blocks, Sessions]:
    """Start the page, and return it with its sessions.

    Args:
        folder: Folder for everything that is uploaded.
        ckpt_path: Checkpoint of a trained model to start from; one that is refused is a ``ValueError``.
        host: Address to listen at.
        port: Port; ``None`` for a free one.
        browser: Whether to open a browser.
        journal: Journal of all that changes a model.
        deliver: Called with the row of every image that is asked about.
    """
    folder = folder.resolve()
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # nothing is sent anywhere
    os.environ["GRADIO_TEMP_DIR"] = str(folder / "uploads")
    if ckpt_path is not None:
        Session(ckpt_path, folder).close()  # a refused checkpoint is an error now
    sessions = Sessions(folder, ckpt_path, journal, deliver)
    page = build_page(sessions, folder / "uploads")
    page.launch(
        server_name=host,
        server_port=port,
        inbrowser=browser,
        prevent_thread_lock=True,
        ssr_mode=False,
        footer_links=[],
        max_file_size="20mb",
        theme=_theme(),
        css=_CSS,
    )
    return page, sessions


class Shown(NamedTuple):
    """The components that show a session, in the order of :data:`View`."""

    message: gr.HTML
    good: gr.HTML
    answers: gr.HTML
    threshold: gr.Slider
    choice: gr.Dropdown
    commands: gr.Code
    limit: gr.Slider  # the threshold once more, beside the rates of the study
    rates: gr.HTML


def _theme() -> gr.themes.Base:
    """Return a theme whose fonts are those of the machine: nothing is fetched."""
    fonts = ["system-ui", "sans-serif"]
    base = gr.themes.Base(primary_hue="blue", font=fonts, font_mono=["ui-monospace", "monospace"])
    blue = {f"button_primary_background_fill{end}": BLUE for end in ("", "_hover", "_dark", "_hover_dark")}
    return base.set(**blue)


def build_page(sessions: Sessions, uploads: Path) -> gr.Blocks:
    """Build the page of all sessions; files that Gradio puts into ``uploads`` are removed as soon as they are taken."""
    title = "AnoPLe: show it good parts, then ask"
    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gr.Markdown("# Show it good parts, then ask")
        reason = gr.Textbox("", label="Reason, for the journal", max_lines=1, max_length=200, render=False)
        shown = Shown(
            message=gr.HTML(padding=False),
            good=gr.HTML(render=False),
            answers=gr.HTML(padding=False, render=False),
            threshold=gr.Slider(0, 1, value=0.5, step=LOWEST, label="Threshold", interactive=True, render=False),
            limit=gr.Slider(0, 1, value=0.5, step=LOWEST, label=_LIMIT, interactive=True, render=False),
            rates=gr.HTML(padding=False, render=False),
            choice=gr.Dropdown([], label="Image, worst first", render=False),
            commands=gr.Code(label=_COMMANDS, interactive=False, wrap_lines=True, render=False),
        )
        with gr.Tabs():
            with gr.Tab("1 Teach"):
                _teach_tab(sessions, uploads, shown, reason)
            with gr.Tab("2 Ask"):
                _ask_tab(sessions, uploads, shown, reason)
            with gr.Tab("3 Prove"):
                _prove_tab(sessions, uploads, shown, reason)
            with gr.Tab("4 Take away"):
                _take_tab(sessions, shown, reason)
        reason.render()
        page.load(sessions.handler(lambda _: None), None, [*shown], api_name=False)
        page.unload(sessions.close)
    return page


def _teach_tab(sessions: Sessions, uploads: Path, shown: Shown, reason: gr.Textbox) -> None:
    """Lay out and bind the controls of teaching."""
    handler, outputs = sessions.handler, [*shown]
    add = handler(lambda session, files: with_uploads(session.add_good, files, uploads))
    with gr.Row():
        with gr.Column():
            title = f"Good images, 1 to {MAX_GOOD}"
            files = gr.File(label=title, file_count="multiple", file_types=["image"], height=160)
            _bind_upload(files.upload, files, add, outputs, "add_good")
            with gr.Accordion("Camera", open=False):
                camera = gr.Image(label="Camera image", sources=["webcam"], type="filepath")
                _bind_upload(gr.Button("Add this image").click, camera, add, outputs)
            with gr.Row(elem_classes="anople-row"):
                sample = gr.Dropdown(list(CATEGORIES), value=CATEGORIES[0], label="Sample part", min_width=120)
                use = gr.Button("Use sample parts")
            shown.good.render()
            clear = gr.Button("Remove the good images")
        with gr.Column():
            part = gr.Textbox("object", label="What the part is called", max_lines=1, max_length=60)
            presets = {name: read_preset(name) for name in preset_names()}
            choices = [(values["title"], name) for name, values in presets.items() if is_at_hand(values)]
            preset = gr.Radio(choices, value=OFFLINE, label="Preset")
            length = gr.Radio([actions.SHORT, actions.FULL], value=actions.SHORT, label="Training")
            with gr.Row():
                train, stop = gr.Button("Train", variant="primary"), gr.Button("Stop", variant="stop")
            progress = gr.HTML(min_height=96)
    used = use.click(handler(actions.add_samples), sample, outputs, api_name="use_samples")
    used.then(lambda name: name, sample, part, api_name=False)
    clear.click(handler(Session.clear_good), None, outputs, api_name="clear_good")

    def taught(
        request: gr.Request, part: str, preset: str, length: str, why: str, told: gr.Progress = _PROGRESS
    ) -> View:
        """Train in a function of which Gradio sees that it has progress; the session answers meanwhile."""
        run = handler(lambda session: actions.teach(session, part, preset, length, why, told), locked=False)
        return (*run(request), "")

    # Gradio's queue lets one run train at a time; a click forgets that an earlier one was stopped
    train.click(handler(lambda session: session.stop.clear()), None, outputs, api_name=False).then(
        taught, [part, preset, length, reason], [*outputs, progress], api_name="teach", show_progress_on=progress
    )
    stop.click(sessions.stop, None, None, api_name="stop", queue=False)


def _bind_upload(
    listen: Callable[..., Any], control: gr.Component, take: Callable[..., View], outputs: list[Any], api: Any = False
) -> None:
    """Bind taking in the files of a control, which is emptied by it; those dropped meanwhile wait their turn."""

    def taken(request: gr.Request, files: Any) -> View:
        """Take the files in and empty the control in one answer, so that none is sent twice."""
        return (*take(request, files), None)

    listen(taken, control, [*outputs, control], api_name=api, trigger_mode="multiple")


def _ask_tab(sessions: Sessions, uploads: Path, shown: Shown, reason: gr.Textbox) -> None:
    """Lay out and bind the controls of asking, of the threshold and of correcting."""
    handler, outputs = sessions.handler, [*shown]
    ask = handler(lambda session, files: with_uploads(partial(sessions.ask, session), files, uploads))
    with gr.Row():
        files = gr.File(label="Images to judge", file_count="multiple", file_types=["image"], height=197)
        folder = gr.File(label="A folder of images to judge", file_count="directory", height=197)
        with gr.Column(min_width=160):
            sample = gr.Dropdown(list(CATEGORIES), value=CATEGORIES[0], label="Sample part to judge")
            use, clear = gr.Button("Judge sample parts"), gr.Button("Remove the judged images")
    with gr.Row():
        shown.threshold.render()
        rate = gr.Dropdown(list(actions.RATES), value=next(iter(actions.RATES)), label=_RATE)
        heat = gr.Slider(0, 1, value=0.4, step=0.05, label="Opacity of the heat map")
    with gr.Row(elem_classes="anople-row"):
        shown.choice.render()
        good, undo, why = (gr.Button(text) for text in ("This is good", "Undo", "Why?"))
    reason = gr.HTML(elem_classes="anople-scroll", padding=False)
    shown.answers.render()
    _bind_upload(files.upload, files, ask, outputs, "ask")
    _bind_upload(folder.upload, folder, ask, outputs)
    use.click(handler(sessions.ask_samples), sample, outputs, api_name="ask_samples")
    clear.click(handler(Session.clear_answers), None, outputs, api_name="clear_answers")
    _bind_threshold(sessions, shown, shown.threshold, "set_threshold")
    rate.input(handler(actions.allow), rate, outputs, api_name="allow_false_alarms")
    heat.input(None, heat, heat, js=_HEAT_JS, api_name=False)
    good.click(handler(actions.correct), [shown.choice, reason], outputs, api_name="this_is_good")
    undo.click(handler(Session.undo), reason, outputs, api_name="undo")
    explain = handler(actions.explain, actions.view_of_one, others=1)
    why.click(explain, shown.choice, [shown.message, reason], api_name="why")


def _bind_threshold(sessions: Sessions, shown: Shown, slider: gr.Slider, api: Any = False) -> None:
    """Let all verdicts and rates follow a slider."""
    show = actions.view_while_moved([*shown].index(slider))
    move = sessions.handler(lambda session, value: session.set_threshold(max(value, LOWEST)), show)
    slider.input(move, slider, [*shown], api_name=api, trigger_mode="always_last", show_progress="hidden")


def _prove_tab(sessions: Sessions, uploads: Path, shown: Shown, reason: gr.Textbox) -> None:
    """Lay out and bind the controls of the study."""
    handler, outputs = sessions.handler, [*shown]
    with gr.Row():
        with gr.Column(min_width=160):
            kind = gr.Textbox("good", label="Kind: good, or the name of the defect", max_lines=1, max_length=60)
            sample = gr.Dropdown(list(CATEGORIES), value=CATEGORIES[0], label="Sample part to prove on")
        files = gr.File(label="Known parts of this kind", file_count="multiple", file_types=["image"], height=160)
        with gr.Column(min_width=160):
            use, clear = gr.Button("Use known sample parts"), gr.Button("Remove the known parts")
            escapes = gr.Number(2, label="Largest share of escapes (%)", minimum=0, maximum=100)
            alarms = gr.Number(5, label="Largest share of false alarms (%)", minimum=0, maximum=100)
    shown.limit.render()
    shown.rates.render()
    write = gr.Button("Study (HTML)", variant="primary")
    file = gr.File(label="Study to download", interactive=False)
    prove = handler(lambda session, files, kind: actions.prove(session, files, kind, uploads))

    def proved(request: gr.Request, files: Any, kind: str) -> View:
        """Take the files in and empty the control in one answer."""
        return (*prove(request, files, kind), None)

    files.upload(proved, [files, kind], [*outputs, files], api_name="prove", trigger_mode="multiple")
    use.click(handler(actions.prove_samples), sample, outputs, api_name="prove_samples")
    clear.click(handler(Session.clear_known), None, outputs, api_name="clear_known")
    for limit in (escapes, alarms):
        limit.change(handler(actions.set_criteria), [escapes, alarms], outputs, api_name=False)
    _bind_threshold(sessions, shown, shown.limit)
    made = handler(proving.study_page, actions.view_of_one, others=1)
    write.click(made, reason, [shown.message, file], api_name="study")


def _take_tab(sessions: Sessions, shown: Shown, reason: gr.Textbox) -> None:
    """Lay out and bind the controls of taking away."""
    with gr.Row():
        buttons = [gr.Button(text) for text in ("Checkpoint", "OpenVINO model", "Table of verdicts (CSV)")]
    file = gr.File(label="File to download", interactive=False)
    shown.commands.render()
    for button, make in zip(buttons, (taking.checkpoint, taking.openvino, taking.table), strict=True):
        made = sessions.handler(make, actions.view_of_one, others=1)
        button.click(made, reason, [shown.message, file], api_name=make.__name__)
