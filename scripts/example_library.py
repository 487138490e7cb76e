# %% [markdown]
"""Earmark from Python: what the command line does, one object does. Run it whole, or cell by cell (`# %%`) in an editor.

python scripts/example_library.py FOLDER_OF_RECORDINGS
"""

# %% A library is a folder; a key file, a passphrase or the desktop's keyring opens it.
import sys
import tempfile
from pathlib import Path

from earmark_client.library import Library
from earmark_client.records import Query
from earmark_client.store.keys import KeyFile

recordings = Path(sys.argv[1])
place = Path(tempfile.mkdtemp())
library = Library.create(place / "home", unlock=KeyFile(place / "home.key"))

# %% Adding: what is known already costs nothing, what can't be used is reported and the rest goes on.
report = library.add([recordings])
print(f"{report.added} clips, {report.sound_s:.0f} s of sound in {report.seconds:.1f} s")
for path, problem in report.problems:
    print(path, problem, problem.hint)

# %% Asking: hits come best first; an answer without hits is an answer.
answer = library.search(Query(text="a dog barking"))
for hit in answer.hits:
    print(f"{hit.score:.2f}  {hit.path}  {hit.start_s:.1f}-{hit.end_s:.1f} s")
    for part in hit.why:
        print(f"      {part.source}: {part.detail} ({part.score:.2f})")
if not answer.hits:
    print("nothing found; nearest miss:", answer.nearest_miss)

# %% By example, and without something.
clips = library.clips()
if clips:
    example = Query(like=Path(clips[0].paths[0]), exclude=("speech",), limit=3)
    print([(hit.path, round(hit.score, 2)) for hit in library.search(example).hits])

# %% What happens when in a clip; and a person's word beats the model's.
if clips:
    for event, labels in library.describe(clips[0]):
        print(f"{event.start_s:6.1f} s  {', '.join(label.name for label in labels[:3])}")
    library.label(str(clips[0].id), "my favourite")

# %% Everything is gone when the key is.
library.erase()
