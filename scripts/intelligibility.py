"""How well a text model speaks: word error rates of a recognizer, and whether the model itself knows which text was said.

    pip install pocketsphinx
    python scripts/intelligibility.py --run runs/text/voice --path corpus/ --table list.csv --speaker kathleen

For the held-out files of a run, it prints the word error rate of the recordings, of the vocoder from their mels (copy
synthesis), and of the spoken texts; and how often the right text is more likely than 20 others. The recognizer is old and knows
few words: it compares, its rates say little. How near the mels are is told by `text_metrics.py`.
"""

import argparse
import csv
import math
import re
import time
from pathlib import Path

import numpy as np
import torch
from pocketsphinx import Decoder

import wavflow
from wavflow.data.split import read_split
from wavflow.resampling import resample
from wavflow.speakers import speaker_id
from wavflow.text.numbers import spelled_out
from wavflow.text_to_mel import TextToMel


def words(text: str) -> list[str]:
    """Returns the words of a text, as the recognizer writes them."""
    return re.findall(r"[a-z']+", spelled_out(text).lower())


def errors(said: list[str], heard: list[str]) -> int:
    """Returns the least number of words to change, add or leave out."""
    row = list(range(len(heard) + 1))
    for i, word in enumerate(said, 1):
        before, row[0] = row[0], i
        for j, other in enumerate(heard, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (word != other))
    return row[-1]


def recognize(decoder: Decoder, audio: torch.Tensor, sample_rate: int) -> list[str]:
    """Returns the words that the recognizer hears in audio (T,)."""
    divisor = math.gcd(sample_rate, 16_000)
    samples = resample(audio.double().numpy(), 16_000 // divisor, sample_rate // divisor).clip(-1, 1)
    decoder.start_utt()
    decoder.process_raw((32767 * samples).astype(np.int16).tobytes(), full_utt=True)
    decoder.end_utt()
    found = decoder.hyp()
    return [] if found is None else words(re.sub(r"<.*?>|\(\d\)", "", found.hypstr))


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="folder of a run of stage=text")
    parser.add_argument("--path", type=Path, required=True, help="folder of the audio")
    parser.add_argument("--table", type=Path, required=True, help="CSV file with path, text and speaker")
    parser.add_argument("--speaker", required=True)
    parser.add_argument("--vocoder", default="lj-student")
    parser.add_argument("--count", type=int, default=24)
    parser.add_argument("--temperature", type=float, default=0.333)
    parser.add_argument("--length-scale", type=float, default=1.0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = wavflow.load_model(arguments.run / "model.safetensors", kind=TextToMel)
    vocoder = wavflow.load_model(arguments.vocoder)
    held_out = set(read_split(arguments.run / "split.json")["test"])
    with open(arguments.table, encoding="utf-8", newline="") as file:
        every = list(csv.DictReader(file, delimiter="|", quoting=csv.QUOTE_NONE))
    rows = [row for row in every if row["speaker"] == arguments.speaker]
    rows = [row for row in rows if Path(row["path"]).with_suffix("").as_posix() in held_out][: arguments.count]
    voice = speaker_id(arguments.speaker, model) if model.speakers is not None else None
    decoder, totals, counted = Decoder(loglevel="FATAL"), dict.fromkeys(("recording", "copy synthesis", "speech"), 0), 0
    right, seconds, spent = 0, 0.0, 0.0
    texts = [model.encode(row["text"]) for row in rows]
    for i, row in enumerate(rows):
        audio, rate = wavflow.read_audio(arguments.path / row["path"], vocoder.sample_rate)
        mel = vocoder.mel(audio[None].float())
        mel = mel[..., : mel.shape[-1] // 2 * 2]
        generator = torch.Generator().manual_seed(i)
        started = time.process_time()
        spoken = model.sample(row["text"], arguments.temperature, arguments.length_scale, voice, generator)
        spoken = vocoder.sample(spoken, generator=generator)[0]
        spent += time.process_time() - started
        seconds += len(spoken) / rate
        copy = vocoder.sample(mel, generator=generator)[0]
        said = words(row["text"])
        counted += len(said)
        for name, sound in zip(totals, (audio, copy, spoken), strict=True):
            totals[name] += errors(said, recognize(decoder, sound, rate))
        with torch.inference_mode():
            fitting = [text for text in texts if text.shape[1] <= mel.shape[-1]]
            scores = [model.log_prob(mel, text, voice).log_prob.sum().item() for text in fitting]
        own = next(score for text, score in zip(fitting, scores, strict=True) if text is texts[i])
        others = [score for text, score in zip(fitting, scores, strict=True) if text is not texts[i]][:20]
        right += own > max(others)
    for name, count in totals.items():
        print(f"word error rate, {name:16}{count / counted:.3f}")
    print(f"right text the most likely of {1 + min(20, len(rows) - 1)}: {right} of {len(rows)}")
    print(f"{seconds / spent:.1f} x real time on one thread, text to sound; {len(rows)} sentences, {counted} words")


if __name__ == "__main__":
    main()
