"""The page to rate in, drawn by NiceGUI: keyboard first, nothing fetched from elsewhere."""

from __future__ import annotations

import socket
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from rag_experiments.contracts import UserError
from rag_experiments.rating import sheet
from rag_experiments.rating.criteria import NO_JUDGMENT, VALUES, Criterion
from rag_experiments.rating.ratings import RatingFile
from rag_experiments.rating.session import Session
from rag_experiments.rating.sheet import Item

if TYPE_CHECKING:
    from nicegui.elements.input import Input
    from nicegui.events import KeyEventArguments, ValueChangeEventArguments

FIRST_PORT = 8400
_KEYS = (
    ("1–5", "rate"),
    ("0", "cannot say"),
    ("Enter or →", "next answer"),
    ("←", "answer before"),
    ("Esc or Backspace", "one step back"),
    ("↑ ↓", "choose"),
    ("c", "correct the answer"),
    ("n", "note"),
)


def serve(folder: Path, rater: str, host: str, port: int | None, browser: bool) -> None:
    """Serve the page until it is interrupted; every answer is on disk before it is shown as saved.

    Raises UserError where the sheet, the rater's file or the port is not usable.
    """
    items = sheet.read(folder)
    file = RatingFile(folder, rater)
    file.read(items)  # what is wrong in it is said here, not in the browser
    try:
        from nicegui import ui
    except ImportError as error:
        raise UserError("rate: the page needs NiceGUI; pip install -e '.[rating]'") from error
    port = _free_port(host, port)
    shown = "127.0.0.1" if host in ("0.0.0.0", "::") else host
    print(f"rate in the browser:  http://{shown}:{port}   (end with Ctrl-C; go on any time)")
    ui.run(
        lambda: Page(items, file, rater).draw(),
        host=host,
        port=port,
        title="Rate answers",
        favicon="✓",
        show=browser,
        reload=False,
        show_welcome_message=False,
        reconnect_timeout=60,  # seconds; afterwards the page begins anew, where the sheet stopped
    )


class Page:
    """One browser tab of a rater."""

    def __init__(self, items: list[Item], file: RatingFile, rater: str):
        self.session = Session(items, file)
        self.rater = rater
        self.saved = ""
        self.fields: dict[str, Input] = {}

    def draw(self) -> None:
        """Build the page."""
        from nicegui import ui

        ui.colors(primary="#1f5f8b")
        ui.context.client.content.classes("p-0")
        ui.keyboard(on_key=self.press, repeating=False, ignore=["input", "textarea"])
        with ui.header().classes("items-center px-6 py-2 gap-4"):
            ui.label("Rate answers").classes("text-lg font-medium")
            self.bar = ui.linear_progress(show_value=False, size="10px").classes("flex-1")
            self.bar.props("color=white track-color=blue-2 instant-feedback")
            self.count = ui.label().mark("count")
            self.state = ui.label().classes("text-sm opacity-80").mark("saved")
        self.body = ui.element("main").classes("w-full max-w-[1500px] mx-auto")
        with ui.footer().classes("bg-grey-2 text-grey-9 px-6 py-2 gap-x-5 gap-y-1"):
            for keys, meaning in _KEYS:
                with ui.row().classes("items-center gap-1 text-sm"):
                    ui.label(keys).classes("font-mono font-bold")
                    ui.label(meaning)
        self.update()

    def press(self, event: KeyEventArguments) -> None:
        """Do what a key stands for."""
        if not event.action.keydown or event.modifiers.ctrl or event.modifiers.alt:
            return
        if event.modifiers.meta:
            return
        key, session = str(event.key), self.session
        if key.isdigit() and int(key) in (NO_JUDGMENT, *VALUES):
            if session.criterion is not None:
                self.keep(lambda: session.rate(int(key)))
                self.update()
            return
        if key in ("c", "n"):
            field = self.fields.get({"c": "corrected", "n": "comment"}[key])
            if field is not None:
                field.run_method("focus")
            return
        moves = {
            "Enter": session.next,
            "ArrowRight": session.next,
            "ArrowLeft": session.previous,
            "Escape": session.back,
            "Backspace": session.back,
            "ArrowUp": lambda: session.choose(session.step - 1),
            "ArrowDown": lambda: session.choose(session.step + 1),
        }
        if key in moves:
            moves[key]()
            self.update()

    def keep(self, save: Callable[[], object]) -> None:
        """Save, and say so or why not."""
        from nicegui import ui

        try:
            save()
        except OSError as error:
            ui.notify(f"not saved: {error}", type="negative", timeout=0, close_button=True)
            return
        self.saved = f"saved {datetime.now():%H:%M:%S}"
        self.state.text = f"{self.rater}  {self.saved}"

    def update(self) -> None:
        """Draw the answer in turn, or the end."""
        session = self.session
        total = len(session.items)
        self.bar.value = session.done / total
        self.count.text = f"{session.done} of {total} rated"
        self.state.text = f"{self.rater}  {self.saved}"
        self.body.clear()
        self.fields = {}
        with self.body:
            if session.item is None:
                self.draw_end()
            else:
                self.draw_item(session.item)

    def draw_end(self) -> None:
        """Say that the last answer is behind, and what is left."""
        from nicegui import ui

        left = len(self.session.items) - self.session.done
        with ui.column().classes("w-full items-center gap-3 mt-24"):
            if left:
                ui.label(f"{left} still to rate").classes("text-3xl")
                ui.label("Enter goes to the first of them.").classes("text-lg")
                ui.button("Go on", on_click=self.go(self.session.next))
            else:
                ui.label("All answers are rated. Thank you!").classes("text-3xl")
                ui.label("Everything is saved; close the page.").classes("text-lg")

    def go(self, move: Callable[[], None]) -> Callable[[], None]:
        """Return a handler that moves and draws."""

        def handler() -> None:
            move()
            self.update()

        return handler

    def draw_item(self, item: Item) -> None:
        """Draw an answer with its passages and what it is rated for."""
        from nicegui import ui

        columns = "grid grid-cols-1 lg:grid-cols-[minmax(0,11fr)_minmax(0,9fr)]"
        with ui.element().classes(f"{columns} w-full gap-x-8 gap-y-4 px-6 py-3"):
            with ui.column().classes("gap-2"):
                with ui.column().classes("gap-1 w-full"):
                    place = f"Answer {self.session.place + 1} of {len(self.session.items)}"
                    ui.label(place).classes("text-sm text-grey-7")
                    ui.label(item.question).classes("text-xl")
                answer = item.answer or "(no answer was given)"
                with ui.card().classes(
                    "w-full bg-blue-1 shadow-none border border-[#c5d4e0] gap-1"
                ):
                    ui.label("Answer to rate").classes("text-sm text-grey-7")
                    ui.label(answer).classes("text-2xl whitespace-pre-wrap").mark("answer")
                if item.expected:
                    with ui.row().classes("gap-2 text-base"):
                        ui.label("Expected:").classes("text-grey-7")
                        ui.label("  or  ".join(item.expected)).classes("whitespace-pre-wrap")
                for step, criterion in enumerate(item.criteria):
                    self.draw_criterion(item, step, criterion)
                with ui.row().classes("w-full gap-4 no-wrap pt-2"):
                    self.draw_field(item, "corrected", "Corrected answer (c)")
                    self.draw_field(item, "comment", "Note (n)")
                with ui.row().classes("w-full items-center gap-4"):
                    ui.button("Back", on_click=self.go(self.session.previous)).props("flat")
                    ui.button("Next", on_click=self.go(self.session.next)).props(
                        "" if self.session.criterion is None else "outline"
                    )
                    if self.session.criterion is None:
                        ui.label("Rated in full: Enter for the next one.").classes("text-grey-8")
            with ui.column().classes("gap-3"):
                title = "Passages that the answer was made from"
                if not item.passages:
                    title = "The answer was made without passages"
                ui.label(title).classes("text-sm text-grey-7")
                for number, passage in enumerate(item.passages, start=1):
                    with (
                        ui.card()
                        .classes("w-full shadow-none border border-[#d0d0d0]")
                        .mark("passage")
                    ):
                        ui.label(f"{number}. {passage}").classes("text-base whitespace-pre-wrap")

    def draw_criterion(self, item: Item, step: int, criterion: Criterion) -> None:
        """Draw one criterion with its values; the one in turn is marked."""
        from nicegui import ui

        session = self.session
        value = session.answers.get((item.name, criterion.name))
        turn = step == session.step
        border = (
            "border-l-4 border-[#1f5f8b] bg-grey-2" if turn else "border-l-4 border-transparent"
        )
        # Below a tablet's width the values stand under the question.
        layout = "w-full items-center pl-3 py-1 gap-x-4 gap-y-1 flex-wrap sm:flex-nowrap"
        with ui.row().classes(f"{layout} {border}") as row:
            row.mark("turn" if turn else "waiting")
            with ui.column().classes("gap-0 w-56 shrink-0"):
                ui.label(criterion.name.capitalize()).classes("font-medium")
                ui.label(criterion.question).classes("text-sm text-grey-7")
            with ui.row().classes("gap-1 no-wrap shrink-0"):
                for choice in (*VALUES, NO_JUDGMENT):
                    meaning = criterion.labels[choice - 1] if choice else "cannot say"
                    button = ui.button(
                        str(choice) if choice else "?", on_click=self.click(item, step, choice)
                    )
                    chosen = "unelevated" if choice == value else "outline"
                    button.props(f"dense {chosen} tabindex=-1").classes("w-10")
                    button.tooltip(meaning).mark(f"{criterion.name}-{choice}")
            if value is not None:
                said = criterion.labels[int(value) - 1] if value else "cannot say"
                ui.label(said).classes("text-sm")
            elif turn:
                ends = f"1 {criterion.labels[0]} … 5 {criterion.labels[-1]}"
                ui.label(ends).classes("text-sm text-grey-7")

    def click(self, item: Item, step: int, value: int) -> Callable[[], None]:
        """Return a handler that rates this very answer, whatever is drawn meanwhile."""
        criterion = item.criteria[step]

        def handler() -> None:
            def save() -> None:
                self.session.save(item, criterion.name, value)
                if self.session.item is item:
                    self.session.choose(step + 1)

            self.keep(save)
            self.update()

        return handler

    def draw_field(self, item: Item, name: str, label: str) -> None:
        """Draw a text field, saved while it is typed in; Enter and Escape leave it."""
        from nicegui import ui

        def save(event: ValueChangeEventArguments) -> None:
            text = event.value or ""
            if text != self.session.answers.get((item.name, name), ""):
                self.keep(lambda: self.session.save(item, name, text))

        value = str(self.session.answers.get((item.name, name), ""))
        field = ui.input(label, value=value, on_change=save)
        field.props("outlined dense debounce=300 autocomplete=off").classes("flex-1").mark(name)
        for key in ("keydown.enter", "keydown.escape"):
            field.on(key, lambda: field.run_method("blur"))
        self.fields[name] = field


def _free_port(host: str, port: int | None) -> int:
    """Return the port asked for, or the first free one; raise UserError where it is taken."""
    for candidate in [port] if port else range(FIRST_PORT, FIRST_PORT + 100):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, candidate))
            except OSError as error:
                reason = error
                continue
            return candidate
    asked = f"{host}:{port}" if port else f"{host}, ports {FIRST_PORT} to {FIRST_PORT + 99}"
    raise UserError(f"--port: cannot listen on {asked} ({reason.strerror}); give another one")
