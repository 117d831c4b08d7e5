"""Processes that predict one list understand each other, and notice when the other is gone."""

import os
from pathlib import Path

from emcfsys_engine.learn.inference.pipes import FromFirst, Line, Pause, Todo


def test_what_is_sent_arrives_also_names_of_any_bytes_and_half_a_line_means_gone() -> None:
    there, here = os.pipe()
    with os.fdopen(there, "rb") as incoming, os.fdopen(here, "wb") as outgoing:
        line = Line(incoming, outgoing, FromFirst)
        name = os.fsdecode(b"/in/\xff\n.png")
        todo = Todo(number=3, image=name, plane=2, mask=f"{name}.mask")
        line.send(todo)
        line.send(Pause())
        assert line.receive() == todo
        assert todo.ref.path == Path(name)
        assert line.receive() == Pause()
        outgoing.write(b'{"type":"pau')
        outgoing.close()
        assert line.receive() is None
        line.send(Pause())  # nobody hears it: no error
