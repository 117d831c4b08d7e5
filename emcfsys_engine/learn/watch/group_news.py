"""A group's verdict, told when it is new: its files, an event, and the person's own command."""

import time
from collections.abc import Callable

from emcfsys_engine.hotfolder.ledger import Ledger
from emcfsys_engine.hotfolder.made import Group
from emcfsys_engine.images.outages import is_of_disk
from emcfsys_engine.images.output_book import OutputBook
from emcfsys_engine.learn.run_context import RunContext
from emcfsys_engine.project import Project
from emcfsys_engine.run.events import GroupJudged
from emcfsys_engine.user_commands import Hook


class GroupNews:
    """Judges groups now and then, and tells each first verdict and each other one once."""

    def __init__(
        self, ledger: Ledger, hook: Hook, worker: RunContext, tell_once: Callable[[str], None]
    ) -> None:
        self._ledger, self._hook, self._worker = ledger, hook, worker
        self._tell_once = tell_once
        self.told_at = 0.0  # of time.monotonic()

    def tell(self, project: Project, book: OutputBook) -> None:
        """Write the files of groups that changed, and tell of verdicts that did.

        Raises: OSError where the disk itself is full or gone.
        """
        self.told_at = time.monotonic()
        try:
            for group in self._ledger.tell_groups(project, book):
                self._tell_one(group)
        except OSError as error:
            if is_of_disk(error):
                raise
            self._tell_once(f"The files of groups cannot be written: {error}")

    def close(self, *, all_of_them: bool) -> None:
        """Wait for the commands that run, or for all that wait as well."""
        self._hook.close(all_of_them=all_of_them)

    def _tell_one(self, group: Group) -> None:
        self._worker.emit_when_possible(
            GroupJudged(
                group=group.name,
                verdict=group.state,
                before=group.announced or "",
                reasons=group.reasons,
                images=int(group.numbers.get("images", 0)),
            )
        )
        self._hook.run(group)
        self._ledger.announced(group)
