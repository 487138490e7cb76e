"""The one object for adding, asking, labelling and keeping, which the command line, notebooks and benchmarks call.

    with Library.create(Path("home"), unlock=KeyFile(Path("key"))) as library:
        library.add([Path("~/Recordings").expanduser()])
        for hit in library.search(Query(text="dog barking")).hits:
            print(hit.path, hit.start_s, hit.score)

One process may write at a time; any number may search meanwhile. A `Library` belongs to the thread that opened it.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Self

from earmark_client import models, succession, teaching, updating
from earmark_client.asking import make_target, named_clips
from earmark_client.census import take_census
from earmark_client.describe import Model
from earmark_client.hits import HitMaker
from earmark_client.labelling import LabelSet
from earmark_client.model.bundle import Bundle
from earmark_client.naming import find_all_places, find_clip
from earmark_client.records import Answer, Clip, Hit, Label, Query, Removal, Segment, Status
from earmark_client.shelf import Shelf
from earmark_client.store.home import change_secret, create_home, erase_home, open_home

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from earmark_client.models import UseReport
    from earmark_client.store.home import Home, Older
    from earmark_client.store.keys import Secret
    from earmark_client.tally import AddProgress, AddReport
    from earmark_client.updating import UpdateProgress
    from earmark_shared.release import Release

BASE_MODEL = Path(__file__).parent / "model" / "base"


class Library:
    """One person's encrypted, searchable sound."""

    def __init__(self, home: Home, secret: Secret, shipped: Model) -> None:
        """Wrap an open home and the model that came with the program; `Library.open` and `Library.create` are the ways to one."""
        self._home = home
        self._secret = secret
        self._database = home.database
        self._shipped = shipped.bundle.folder
        self._model = models.follow(home, shipped, self._shipped)
        self._opened_shelf: Shelf | None = None
        self._beside = ThreadPoolExecutor(1, thread_name_prefix="beside")  # the database's, while this thread needs none of it

    @classmethod
    def create(cls, home: Path, *, unlock: Secret, device: str = "cpu") -> Self:
        """Make an empty library and open it; a key file that does not exist yet is made.

        Raises:
            HomeExistsError: there is one already.
            StoreError: the keyring or the key file can't be used.
        """
        create_home(home, unlock)
        return cls.open(home, unlock=unlock, device=device)

    @classmethod
    def open(cls, home: Path, *, unlock: Secret, device: str = "cpu", older: Older = "refuse", text: str = "") -> Self:
        """Open a library; what will be asked first, if that is known, is the `text` that is understood meanwhile.

        Raises:
            HomeMissingError: there is none.
            WrongKeyError: `unlock` does not open it.
            TamperedError: something else than Earmark changed it.
            RollbackError: it is older than the one last seen, and `older` is "refuse".
        """
        shipped = Model(Bundle.load(BASE_MODEL), device=device)
        if text:
            Thread(target=shipped.labeler.understand, args=(text,)).start()
        return cls(open_home(home, unlock, older=older), unlock, shipped)

    def close(self) -> None:
        """Close the database; the object can't be used any more."""
        self._beside.shutdown()
        self._home.close()

    def __enter__(self) -> Self:
        """Use as a context manager: closed at the end."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close."""
        self.close()

    def add(
        self, paths: Sequence[Path], *, on_progress: Callable[[AddProgress], None] | None = None, jobs: int | None = None
    ) -> AddReport:
        """Make the sound files under `paths` (files, folders, patterns) searchable.

        A file that can't be used is in the report's `problems`; the others go on. Called again, it resumes what was interrupted.

        Raises:
            HomeInUseError: another process is writing.
            DiskFullError: what was committed stays.
        """
        from earmark_client.intake import add_sounds

        with self._home.lock():
            self._follow()
            models.catch_up(self._home, self._model, self._shipped, on_progress)  # a newer model, or files that came back
            self._follow()
            labels = LabelSet(self._model, self._database.label_list())
            report = add_sounds(self._database, self._model, labels, paths, jobs=jobs, on_progress=on_progress)
            if report.moved:  # maybe a clip that the model in force could not find until now
                models.catch_up(self._home, self._model, self._shipped, on_progress)
            return report

    def search(self, query: Query) -> Answer:
        """Answer a query: hits best first, or none and the nearest miss.

        Raises:
            AudioError: the example file can't be used.
            SettingsError: the query asks for nothing.
        """
        labeler = self._model.labeler  # looking may find that another model is in force
        looking = self._beside.submit(lambda: (self._shelf(), named_clips(self._database, query)))
        if query.text and labeler.knows_words:
            labeler.understand(query.text)  # remembered; encoding takes as long as the looking
        shelf, words = looking.result()
        target = make_target(self._database, self._model, shelf, query, words)
        with self._database.snapshot():  # of now: hearing an example takes seconds, in which another process may remove clips
            now = self._shelf()
            if now is not shelf:  # another model has come into force
                target = make_target(self._database, self._model, now, query, words)
            return HitMaker(self._database, now, self._beside).answer(self._model, query, target)

    def clips(self, *, folder: str | None = None, label: str | None = None) -> list[Clip]:
        """The searchable clips, by id."""
        return self._database.clips(folder=folder, label=label)

    def clip(self, target: int | str | Path) -> Clip:
        """One clip by its number, its path, or the first digits of its content hash.

        Raises:
            NotInLibraryError: there is none, or more than one begins like that.
        """
        return find_clip(self._database, target)

    def describe(self, clip: Clip) -> list[tuple[Segment, tuple[Label, ...]]]:
        """What happens when: stretches of a clip with the same labels, in order of time."""
        with self._database.snapshot():
            return teaching.describe_clip(self._shelf(), clip)

    def label(self, target: str, name: str, *, is_present: bool = True, at_s: float | None = None) -> None:
        """Say that `name` is, or is not, to be heard in a clip, or at one second of it; it counts at once.

        Raises:
            NotInLibraryError: no such clip, or nothing at that second. SettingsError: it is no name.
        """
        with self._home.lock():
            teaching.say(self._database, self.clip(target), name, is_present=is_present, moment=at_s, now_s=time.time())

    def unlabel(self, target: str, name: str, *, at_s: float | None = None) -> int:
        """Take back what was said by that name, yes or no: how often. NotInLibraryError if nothing was."""
        with self._home.lock():
            return teaching.take_back(self._database, self.clip(target), name, at_s)

    def label_hit(self, hit: Hit, name: str, *, is_present: bool) -> None:
        """Say the same of the moment that a hit, of a review for example, is about; NotInLibraryError if its clip is gone."""
        with self._home.lock():
            teaching.say(self._database, self.clip(hit.clip_id), name, is_present=is_present, moment=hit, now_s=time.time())

    def review(self, limit: int = 20) -> list[Hit]:
        """Clips whose best unconfirmed label is least certain first, each with that label first."""
        with self._database.snapshot():
            return teaching.least_certain(self._database, self._shelf(), limit)

    def teach(self, name: str, files: Sequence[Path]) -> int:
        """Learn a sound from a few example files; it labels and searches at once. Returns how many clips got the label.

        Raises:
            AudioError: an example can't be used.
        """
        with self._home.lock():
            return teaching.teach(self._database, self._shelf(), self._model, name, files)

    def labels(self) -> list[teaching.KnownLabel]:
        """The labels that clips can get: the model's own, the person's phrases, the taught sounds."""
        self._follow()
        return teaching.known_labels(self._database, self._model)

    def add_label(self, name: str, *, phrase: str | None = None) -> int:
        """Add a label by words; every clip can have it at once. Returns how many clips got it."""
        with self._home.lock():
            return teaching.add_phrase(self._database, self._shelf(), self._model, name, phrase or name)

    def remove_label(self, name: str) -> None:
        """Take a label of one's own off the list, and off the clips that got it; NotInLibraryError if there is none of that name."""
        with self._home.lock():
            teaching.remove_label(self._database, self._model, name)

    def remove(self, targets: Sequence[str]) -> Removal:
        """Forget clips, by name or everything below a folder: rows, vectors and words; of a clip that lies elsewhere too, the path.

        Raises:
            NotInLibraryError: one of them is not there; then nothing is forgotten.
        """
        chosen = find_all_places(self._database, targets)
        with self._home.lock(), self._database.transaction():
            forgotten = self._database.forget_places(chosen)
        return Removal(forgotten, len(chosen) - forgotten)

    def export(
        self,
        path: Path,
        *,
        format: str = "age",  # noqa: A002
        recipient: str | None = None,
        passphrase: bytes | None = None,
        replace: bool = False,
    ) -> None:
        """Write what the library knows as readable JSON, or as an age file that only a recipient or passphrase opens.

        Raises:
            SettingsError: an age file needs exactly one of `recipient` and `passphrase`; or a file is there without `replace`.
        """
        from earmark_client import exporting

        exporting.check_place(path, self._home.folder, self._secret, replace=replace)
        exporting.export_library(self._database, path, kind=format, recipient=recipient, passphrase=passphrase)

    def change_unlock(self, new: Secret) -> None:
        """Change what opens the library; the data is not written again, and the object is closed."""
        self.close()
        change_secret(self._home.folder, self._secret, new)

    def erase(self) -> None:
        """Destroy the key, then the files: nothing can be read again, not even from a copy. The object is closed."""
        self.close()
        erase_home(self._home.folder, self._secret)

    def update(self, release: Release, *, on_progress: Callable[[UpdateProgress], None] | None = None) -> None:
        """Put a released head in force that `federation.releases` has fetched; searches go on meanwhile, and called again it goes on.

        Raises:
            ModelError: it is not what was fetched, or for another base model; nothing has changed.
        """
        with self._home.lock():
            updating.install(self._home, self._model, release, on_progress)

    def roll_back(self, *, on_progress: Callable[[UpdateProgress], None] | None = None) -> None:
        """Put the model before in force again (the base model if that was taken back); NotInLibraryError if there is none."""
        with self._home.lock():
            updating.take_back(self._home, self._model, on_progress)

    @property
    def is_outdated(self) -> bool:
        """Whether an older shipped model than the installed one answers: since Earmark was updated, nothing has been added."""
        self._follow()
        return succession.is_kept(self._home, self._model)

    def catch_up(self) -> bool:
        """Let the newer model take over from what is stored, if it hears like the older one; HomeInUseError while another writes."""
        with self._home.lock():
            return succession.inherit(self._home, models.find(self._home, "base", self._shipped, device=self._model.device))

    def use_model(self, name: str, *, on_progress: Callable[[AddProgress], None] | None = None) -> UseReport:
        """Put an imported model in force, or "base": it hears all clips; called again it goes on. SettingsError if there is none."""
        with self._home.lock():
            model = models.find(self._home, name, self._shipped, device=self._model.device)
            return models.use(self._home, model, on_progress)

    def status(self) -> Status:
        """Count what the library holds."""
        self._follow()
        return take_census(self._home, self._model)

    @property
    def home(self) -> Home:
        """The open home, for what takes part in a federation."""
        return self._home

    def _shelf(self) -> Shelf:
        if self._opened_shelf is not None and self._opened_shelf.is_current:
            return self._opened_shelf
        with self._database.snapshot():  # which model is in force, and its vectors, belong to one moment
            self._follow()
            if self._opened_shelf is None:
                self._opened_shelf = Shelf(self._database, self._model)
            else:
                self._opened_shelf.refresh()
        return self._opened_shelf

    def _follow(self) -> None:
        """Take on the model in force, if this process or another has changed it."""
        model = models.follow(self._home, self._model, self._shipped)
        if model is not self._model:
            self._model, self._opened_shelf = model, None
