"""How much a library holds, and by which model it is searched."""

from __future__ import annotations

from typing import TYPE_CHECKING

from earmark_client import updating
from earmark_client.records import Status

if TYPE_CHECKING:
    from earmark_client.describe import Model
    from earmark_client.store.home import Home


def take_census(home: Home, model: Model) -> Status:
    """Count what is in `home`, whose model in force is `model`."""
    database = home.database
    counts, waiting = database.counts(), updating.read_state(database).waiting
    return Status(
        home=str(home.folder),
        model=model.version,
        clips=counts.clips,
        pending=counts.pending,
        segments=counts.segments,
        sound_s=counts.duration_s,
        sound_bytes=counts.size_bytes,
        corrections=len(database.corrections()),
        own_labels=len(database.label_list()),
        is_rolled_back=home.is_rolled_back,
        unheard=database.unheard(model.base_version),
        waiting_release=waiting.number if waiting else 0,
    )
