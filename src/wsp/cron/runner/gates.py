"""Commands that are about to be due stand ready: each has its shell, which waits for the word to go on.

To start a shell is most of what a start takes, and where a hundred commands are due in the same second the last one
would wait for all the others. Nothing of a command itself happens before the word, and without it nothing ever does.
"""

import os
from collections import OrderedDict

from wsp.cron.runner.command import Command
from wsp.cron.runner.spawn import CannotStart, Spawner

MOST = 128

_GO = b"\n"


class Ready:
    """A process that waits. Whoever opens the gate has its descriptors from then on."""

    __slots__ = ("_gate", "process")

    def __init__(self, spawner: Spawner, command: Command) -> None:
        """Raises CannotStart, OSError."""
        waits, self._gate = os.pipe()
        try:
            os.set_blocking(self._gate, False)  # its account can fill the pipe: nobody else is to wait for that
            self.process = spawner.spawn(command, gate=waits)
        except (CannotStart, OSError):
            os.close(self._gate)
            raise
        finally:
            os.close(waits)

    def open(self) -> bool:
        """Let the command go. False when the word does not reach it, for it is gone; then nothing is left of it."""
        try:
            os.write(self._gate, _GO)
        except OSError:  # or the pipe is full, or the kernel has no memory for a byte
            self.close()
            return False
        os.close(self._gate)
        return True

    def close(self) -> None:
        """Do without it: the process sees that, ends, and is reaped like all others."""
        _, out, err = self.process
        for descriptor in (self._gate, out, err):
            os.close(descriptor)


class Gates:
    """Orders that may be due soon, and as many processes as may stand ready for them.

    No clock says when to forget them: whoever stood still for a while would have forgotten what it is told to start.
    """

    def __init__(self, spawner: Spawner) -> None:
        self._spawner = spawner
        self._commands: dict[int, Command] = {}
        self._waiting: OrderedDict[int, Command] = OrderedDict()  # for a process
        self._ready: dict[int, Ready] = {}

    @property
    def busy(self) -> bool:
        """Is there a step to take at once?"""
        return bool(self._waiting)

    def prepare(self, command: Command) -> None:
        """Expect a start of this command."""
        self.drop(command.run_id)
        self._commands[command.run_id] = self._waiting[command.run_id] = command

    def step(self) -> None:
        """Have one more process stand ready, if one is waited for."""
        if not self._waiting:
            return
        wanted, command = self._waiting.popitem(last=False)
        if len(self._ready) < MOST:
            try:
                self._ready[wanted] = Ready(self._spawner, command)
            except (CannotStart, OSError):
                return  # the start itself will tell, should it be so still

    def give_way(self) -> bool:
        """Have one less stand ready, for the sake of a start; its command will be started as others are.

        False when there is none. The newest one goes: it is most likely due last.
        """
        if not self._ready:
            return False
        self._ready.popitem()[1].close()
        return True

    def take(self, wanted: int) -> tuple[Command, Ready | None] | None:
        """What was prepared, and the process if one stands ready; whoever takes it opens it, or closes it."""
        command = self._commands.pop(wanted, None)
        if command is None:
            return None
        self._waiting.pop(wanted, None)
        return command, self._ready.pop(wanted, None)

    def close(self) -> None:
        """Nothing of what was prepared is going to be started."""
        for wanted in list(self._commands):
            self.drop(wanted)

    def drop(self, wanted: int) -> None:
        """This one is not going to be started, if it was prepared at all."""
        _, ready = self.take(wanted) or (None, None)
        if ready is not None:
            ready.close()
