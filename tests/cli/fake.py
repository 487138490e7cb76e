"""A library that answers from memory, so that what is tested is only what the command line makes of it."""

from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace

from earmark_client.records import Answer, Clip, Evidence, Hit, Label, Removal, Segment
from earmark_client.tally import AddReport
from earmark_shared.errors import DamagedAudioError

CLIP = Clip(7, "ab" * 32, ("/music/a.wav",), 75.0, 44100, 2, 1_700_000_000.0, 1_600_000_000.0)
HIT = Hit(
    clip_id=7, segment_id=91, path="/music/a.wav", start_s=61.44, end_s=63.0, peak_s=61.9, score=0.8123456,
    labels=(Label("dog", 0.9), Label("bark", 0.5)), why=(Evidence("text", "dog barking ~ Bark", 0.7),),
)  # fmt: skip


@dataclass(frozen=True)
class FakeStatus:
    clips: int = 1
    model_version: str = "yes-123"
    size_bytes: int | None = None


class FakeLibrary:
    """Remembers what it was asked; `answer` and `problems` are set by the test."""

    home = SimpleNamespace(database=SimpleNamespace(federation_value=lambda _name: None))

    def __init__(self):
        self.calls = []
        self.answer = Answer((HIT,), None, "v")
        self.problems = ()
        self.silent = self.passed_over = 0
        self.raises = None

    def add(self, paths, *, on_progress=None, jobs=None):
        if self.raises:
            raise self.raises
        self.calls.append(("add", paths, jobs))
        on_progress(SimpleNamespace(done_files=1, total_files=2, sound_s=60.0, elapsed_s=0.5, current="/x/a.wav"))
        return AddReport(2, 1, 0, self.problems, 75.0, 0.5, self.silent, self.passed_over)

    is_outdated = False

    def catch_up(self):
        if self.raises:
            raise self.raises
        self.calls.append(("catch up",))
        return self.can_catch_up

    can_catch_up = False

    def search(self, query):
        self.calls.append(("search", query))
        return self.answer

    def clips(self, *, folder=None, label=None):
        self.calls.append(("clips", folder, label))
        return [CLIP]

    def clip(self, _target):
        return CLIP

    def describe(self, _clip):
        return [(Segment(1, 7, 0.0, 0.975), (Label("dog", 0.9),)), (Segment(2, 7, 3661.0, 3662.0), ())]

    def status(self):
        return FakeStatus()

    def labels(self):
        return [Label("dog", 1.0)]

    def review(self, limit):
        self.calls.append(("review", limit))
        return [HIT, HIT]

    def label(self, target, name, *, is_present=True, at_s=None):
        self.calls.append(("label", target, name, is_present, at_s))

    def label_hit(self, hit, name, *, is_present):
        self.calls.append(("label hit", hit.segment_id, name, is_present))

    def remove(self, targets):
        self.calls.append(("remove", targets))
        return Removal(len(targets), 0)

    def erase(self):
        self.calls.append(("erase",))

    def export(self, path, *, format, recipient, passphrase, replace):
        self.calls.append(("export", path, format, recipient, passphrase))

    @contextmanager
    def opened(self, _text=""):
        yield self


def damaged(path):
    return path, DamagedAudioError(f"{path}: the file ends early", hint="copy it again")
