"""How many streams of real-time speech a running `python -m wavflow.serve` draws at once, and how soon the first audio comes.

python scripts/load_server.py --streams 1 4 8 --seconds 10
python scripts/load_server.py --streams 4 --seconds 600 --pid <of the server>     # memory, too

Each stream sends 8 frames whenever their time has passed, as a text-to-speech model or a microphone would. It falls behind when
what it plays, from the first audio on with a buffer of 0.2 s, runs out.
"""

import argparse
import asyncio
import json
import os
import time
from pathlib import Path

import numpy as np
from websockets.asyncio.client import connect

import wavflow
from wavflow.audio_files import counted

SPEECH = Path(wavflow.__file__).parent / "assets" / "models" / "LJ027-0006.flac"
FRAMES, BUFFER = 8, 0.2


async def stream(url: str, options: dict, seconds: float) -> tuple[float, float]:
    """Returns the seconds from the first frames to the first audio, and by how many seconds audio came too late at worst."""
    headers = {"Authorization": f"Bearer {os.environ['WAVFLOW_TOKEN']}"} if "WAVFLOW_TOKEN" in os.environ else {}
    async with connect(url, additional_headers=headers, compression=None) as socket:
        await socket.send(json.dumps(options))
        spec = json.loads(await socket.recv())
        spec.pop("limits")
        mel = wavflow.MelSpectrogram(**spec)
        frames = mel(wavflow.read_audio(SPEECH, mel.sample_rate)[0][None])[0].T.numpy().astype("<f4")
        step, started = FRAMES * mel.hop_length / mel.sample_rate, time.monotonic()

        async def send() -> None:
            for n in range(round(seconds / step)):
                await asyncio.sleep(max(0.0, started + n * step - time.monotonic()))
                await socket.send(np.take(frames, range(n * FRAMES, (n + 1) * FRAMES), axis=0, mode="wrap").tobytes())
            await socket.send("end")

        sending = asyncio.ensure_future(send())
        first, played, late = None, 0.0, 0.0
        async for audio in socket:
            now = time.monotonic()
            first = now if first is None else first
            late = max(late, now - first - BUFFER - played)
            played += len(audio) / 2 / mel.sample_rate
        await sending
    assert first is not None
    return first - started, late


def resident(pid: int) -> float:
    """Returns the MB of memory that a process holds."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


async def main() -> None:
    """Prints a line for each number of streams."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="ws://127.0.0.1:8000/v1/stream")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 4, 8], help="at once, one number after the other")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each stream")
    parser.add_argument("--model", help="the server's first if left out")
    parser.add_argument("--passes", type=int, help="of the mel equalizer")
    parser.add_argument("--pid", type=int, help="of the server, on this machine: tells its memory")
    args = parser.parse_args()
    options = {key: value for key in ("model", "passes") if (value := getattr(args, key)) is not None}
    for count in args.streams:
        before = resident(args.pid) if args.pid else 0.0
        found = await asyncio.gather(*(stream(args.url, options | {"seed": n}, args.seconds) for n in range(count)))
        firsts, late = sorted(first for first, _ in found), [late for _, late in found]
        words = f"first audio after {1e3 * firsts[len(firsts) // 2]:.0f} ms (worst {1e3 * firsts[-1]:.0f})"
        behind = sum(each > 0 for each in late)
        words += f", {behind} fell behind" + (f", by {max(late):.2f} s at worst" if behind else "")
        memory = f", memory {before:.0f} -> {resident(args.pid):.0f} MB" if args.pid else ""
        print(f"{counted(count, 'stream')} of {args.seconds:g} s: {words}{memory}", flush=True)


if __name__ == "__main__":
    asyncio.run(main())
