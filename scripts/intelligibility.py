"""How well a text model speaks: word error rates of a recognizer, and whether the model itself knows which text was said.

    pip install pocketsphinx torchaudio
    python scripts/intelligibility.py --run runs/text/voice --path corpus/ --table list.csv --speaker kathleen

For the held-out files of a run, it prints the word error rate of the recordings, of the vocoder from their mels (copy
synthesis), and of the spoken texts; and how often the right text is more likely than 20 others. The recognizer is old and knows
few words: its rates say little by themselves, and serve to compare. `text_metrics.py` tells how near the mels are.
"""

import re
import time

import numpy as np
import torch
from pocketsphinx import Decoder
from text_runs import load, options
from torchaudio.functional import edit_distance

import wavflow
from wavflow.data.utterances import even_frames
from wavflow.resampling import ratio, resample
from wavflow.text.numbers import spelled_out


def words(text: str) -> list[str]:
    """Returns the words of a text, as the recognizer writes them."""
    return re.findall(r"[a-z']+", spelled_out(text).lower())


def recognize(decoder: Decoder, audio: torch.Tensor, sample_rate: int) -> list[str]:
    """Returns the words that the recognizer hears in audio (T,)."""
    samples = resample(audio.double().numpy(), *ratio(16_000, sample_rate)).clip(-1, 1)
    decoder.start_utt()
    decoder.process_raw((32767 * samples).astype(np.int16).tobytes(), full_utt=True)
    decoder.end_utt()
    found = decoder.hyp()
    return [] if found is None else words(re.sub(r"<.*?>|\(\d\)", "", found.hypstr))


def main() -> None:
    """Prints the table."""
    parser = options(__doc__)
    parser.add_argument("--length-scale", type=float, default=1.0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model, vocoder, voice, split, every = load(arguments)
    held_out = set(split["test"])
    rows = [pair for name, pair in every.items() if name in held_out][: arguments.count]
    decoder, totals, counted = Decoder(loglevel="FATAL"), dict.fromkeys(("recording", "copy synthesis", "speech"), 0), 0
    right, seconds, spent = 0, 0.0, 0.0
    texts = [model.encode(text) for _, text in rows]
    for i, (path, text) in enumerate(rows):
        audio, rate = wavflow.read_audio(path, vocoder.sample_rate)
        mel = vocoder.mel(audio[None].float())[..., : even_frames(len(audio), vocoder.mel)]
        generator = torch.Generator().manual_seed(i)
        started = time.process_time()
        spoken = model.sample(text, arguments.temperature, arguments.length_scale, arguments.guidance, voice, generator)
        spoken = vocoder.sample(spoken, generator=generator)[0]
        spent += time.process_time() - started
        seconds += len(spoken) / rate
        copy = vocoder.sample(mel, generator=generator)[0]
        said = words(text)
        counted += len(said)
        for name, sound in zip(totals, (audio, copy, spoken), strict=True):
            totals[name] += edit_distance(said, recognize(decoder, sound, rate))
        with torch.inference_mode():
            fitting = [symbols for symbols in texts if model.states * symbols.shape[1] <= mel.shape[-1]]
            scores = [model.log_prob(mel, symbols, voice).log_prob.sum().item() for symbols in fitting]
        own = next(score for symbols, score in zip(fitting, scores, strict=True) if symbols is texts[i])
        others = [score for symbols, score in zip(fitting, scores, strict=True) if symbols is not texts[i]][:20]
        right += own > max(others)
    for name, count in totals.items():
        print(f"word error rate, {name:16}{count / counted:.3f}")
    print(f"right text the most likely of {1 + min(20, len(rows) - 1)}: {right} of {len(rows)}")
    print(f"{seconds / spent:.1f} x real time on one thread, text to sound; {len(rows)} sentences, {counted} words")


if __name__ == "__main__":
    main()
