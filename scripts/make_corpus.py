"""Makes the speech corpus that ships inside the package, `wavflow/assets/speech/alice-NN.flac`.

A free synthetic voice (`slt` of Flite, 16 kHz) reads sentences of a book in the public domain. Nothing is random, so
the same Flite makes the same files; run it again only to change the corpus:

    python scripts/make_corpus.py --output wavflow/assets/speech

References:
    Flite: a small, fast run-time synthesis engine (Black and Lenzo, 2001), http://cmuflite.org
    Alice's Adventures in Wonderland (Lewis Carroll, 1865)
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile

SENTENCES = (
    "Alice was beginning to get very tired of sitting by her sister on the bank.",
    "Once or twice she had peeped into the book her sister was reading.",
    "Suddenly a white rabbit with pink eyes ran close by her.",
    "There was nothing so very remarkable in that, thought Alice.",
    "In another moment, down went Alice after it, down the rabbit hole.",
    "Either the well was very deep, or she fell very slowly.",
    "She tried to look down and make out what she was coming to.",
    "Down, down, down. Would the fall never come to an end?",
    "I wonder how many miles I have fallen by this time?",
    "There were doors all round the hall, but they were all locked.",
    "She knelt down and looked along the passage into the loveliest garden you ever saw.",
    "It was all very well to say drink me, but the wise little Alice waited.",
    "What a curious feeling! I must be shutting up like a telescope.",
    "I wish I had not cried so much, said Alice, as she swam about.",
    "The Mouse gave a sudden leap out of the water, and seemed to quiver.",
    "They were indeed a queer looking party that assembled on the bank.",
    "At last the Dodo said, everybody has won, and all must have prizes.",
    "The Caterpillar and Alice looked at each other for some time in silence.",
    "Who are you? said the Caterpillar. This was not an encouraging opening.",
    "One side will make you grow taller, and the other side will make you grow shorter.",
    "The Cat only grinned when it saw Alice. It looked good natured, she thought.",
    "We are all mad here, said the Cat. I am mad. You are mad.",
    "Have some wine, the March Hare said in an encouraging tone.",
    "The Hatter opened his eyes and said, why is a raven like a writing desk?",
    "A large rose tree stood near the entrance, and its roses were white.",
    "The Queen turned crimson with fury, and glared at her for a moment like a wild beast.",
    "Begin at the beginning, the King said gravely, and go on till you come to the end.",
    "Who cares for you? said Alice. You are nothing but a pack of cards!",
)
VOICE = "slt"
SAMPLE_RATE = 16000  # Hz, what the voice speaks at
MARGIN = 0.1  # seconds kept before and after the speech
PEAK = 0.4  # of full scale, reached by the loudest file; all files get the same gain, so their levels stay natural


def speak(text: str, folder: Path) -> np.ndarray:
    """Returns `text` spoken, (T,) float64 in [-1, 1)."""
    path = folder / "speech.wav"
    subprocess.run(["flite", "-voice", VOICE, "-t", text, "-o", str(path)], check=True, stdin=subprocess.DEVNULL)
    audio, sample_rate = soundfile.read(path)
    if sample_rate != SAMPLE_RATE:  # without the voice Flite takes another one
        sys.exit(f"Flite's voice {VOICE} must speak at {SAMPLE_RATE} Hz, got {sample_rate} Hz: install a Flite that has it.")
    return audio


def trim(audio: np.ndarray) -> np.ndarray:
    """Cuts what lies more than `MARGIN` seconds outside the speech.

    Speech begins with the first frame of 10 ms that is within 40 dB of the loudest one, and ends with the last.
    """
    frame = SAMPLE_RATE // 100
    energy = np.square(audio[: len(audio) // frame * frame].reshape(-1, frame)).mean(axis=1)
    spoken = np.flatnonzero(energy > 1e-4 * energy.max())
    margin = round(MARGIN * SAMPLE_RATE)
    return audio[max(0, spoken[0] * frame - margin) : (spoken[-1] + 1) * frame + margin]


def main() -> None:
    """Makes the corpus."""
    parser = argparse.ArgumentParser(description="Make wavflow's bundled speech corpus with the Flite synthesizer.")
    parser.add_argument("--output", type=Path, required=True, help="folder for the FLAC files")
    folder = parser.parse_args().output
    with tempfile.TemporaryDirectory() as scratch:
        clips = [trim(speak(text, Path(scratch))) for text in SENTENCES]
    gain = PEAK / max(np.abs(clip).max() for clip in clips)
    folder.mkdir(parents=True, exist_ok=True)
    for number, clip in enumerate(clips, start=1):
        path = folder / f"alice-{number:02d}.flac"
        soundfile.write(path, gain * clip, SAMPLE_RATE, "PCM_16", format="FLAC", compression_level=1.0)
    print(f"{len(clips)} files, {sum(map(len, clips)) / SAMPLE_RATE:.1f} s, in {folder}")


if __name__ == "__main__":
    main()
