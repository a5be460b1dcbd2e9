"""Fast synthesis without any framework: a model file and a recording (or mel) in, a wav file out.

python scripts/synthesize.py runs/student/<run>/model.safetensors recording.wav copy.wav
"""

import argparse
import sys
import time

import torch

import wavflow
from wavflow.devices import pick_device
from wavflow.mel_files import load_mel


def main() -> None:
    """Synthesizes one file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a .safetensors model file")
    parser.add_argument("input", help="audio, or a mel as .npy, .pt or .safetensors")
    parser.add_argument("output", help="the .wav file to write")
    parser.add_argument("--temperature", type=float, default=1.0, help="multiplies the noise (default 1.0)")
    parser.add_argument("--seed", type=int, default=0, help="of the noise (default 0)")
    parser.add_argument("--device", default="auto", help="cpu, cuda ... (default auto: a GPU if there is one)")
    args = parser.parse_args()
    try:
        vocoder = wavflow.load_model(args.model, pick_device(args.device))
        mel = load_mel(args.input, vocoder.mel).to(vocoder.device)
        started = time.perf_counter()
        audio = vocoder.sample(mel, temperature=args.temperature, generator=torch.Generator().manual_seed(args.seed))[0]
        elapsed = time.perf_counter() - started
        wavflow.write_audio(args.output, audio.float().cpu(), vocoder.sample_rate)
    except (ValueError, OSError) as error:
        sys.exit(f"wavflow: {' '.join(str(error).split())}")
    seconds = len(audio) / vocoder.sample_rate
    print(f"{args.output}: {seconds:.2f} s of audio in {elapsed:.2f} s, {seconds / elapsed:.2f} x real time")


if __name__ == "__main__":
    main()
