"""The folder of sounds that command-line sessions begin with."""

import numpy as np

from tests.soundmaker import noise, tone, write_sound


def beeps(seconds, rate_hz=16_000):
    """A tone that is on for a quarter of a second in every half: (samples,) float32."""
    waveform = tone(seconds, 1000.0, rate_hz=rate_hz)
    waveform[np.arange(len(waveform)) % (rate_hz // 2) >= rate_hz // 4] = 0
    return waveform


def fill_folder(folder):
    """Write three different sounds into `folder`: tone.wav, noise.wav, beeps.wav."""
    folder.mkdir(parents=True, exist_ok=True)
    write_sound(folder, "tone", tone(3.0))
    write_sound(folder, "noise", noise(3.0, level=0.2))
    write_sound(folder, "beeps", beeps(3.0))
    return folder
