"""`python -m wavflow`: a list of the commands."""

from __future__ import annotations

import sys

from wavflow import __version__

COMMANDS = {
    "train": "train a teacher, distil a student from one, or train a flow or a text model in one stage",
    "synthesize": "make audio from mels, or from other audio by way of its mel",
    "speak": "make speech from text, by a text model and a vocoder",
    "evaluate": "figures, a report page and a listening test, of models or of folders of sounds",
    "score": "how likely recordings are under a teacher, and which of them are strange",
    "compress": "lossless coding of 16-bit audio with a teacher, and decoding",
    "export": "a student as ONNX graphs, which run without wavflow and without torch",
    "serve": "audio, likelihoods and streams over HTTP and WebSocket",
    "prepare": "make shards of a large folder of audio, to train from",
    "listen": "what the listeners of a listening test heard, as tables",
    "density": "train a flow of vectors on shapes, digits or tables, and judge it",
    "benchmark": "what drawing, sampling, training and reading cost on this machine",
}


def main() -> None:
    """Prints the commands or the version."""
    if "--version" in sys.argv:
        print(f"wavflow {__version__}")
        return
    print("wavflow: mel spectrograms to audio, with exact densities. Its commands, each with --help:\n")
    for name, text in COMMANDS.items():
        print(f"  {f'python -m wavflow.{name}':32}{text}")
    if wrong := sys.argv[1:2]:
        name = wrong[0] if wrong[0] in COMMANDS else "<command>"
        raise SystemExit(0 if wrong[0] in ("-h", "--help") else f"\nwavflow: write `python -m wavflow.{name}`, with a dot.")


if __name__ == "__main__":
    main()
