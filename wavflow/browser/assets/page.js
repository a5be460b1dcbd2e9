"use strict";

const facts = JSON.parse(document.getElementById("facts").textContent);
const { sample_rate: sampleRate, hop_length: hopLength } = facts.spec;
const [file, again, stop, progress, failure, heard] = document.querySelectorAll("#file, #again, #stop, #progress, #failure, #heard");
const players = heard.querySelectorAll("audio");
let latest = null, recording = null, worker = null, clock = null;

file.addEventListener("change", () => file.files.length && read(file.files[0]));
again.addEventListener("click", draw);
stop.addEventListener("click", () => end("Stopped."));
for (const type of ["dragover", "drop"]) addEventListener(type, (event) => event.preventDefault());
addEventListener("drop", ({ dataTransfer: { files } }) => (files.length ? read(files[0]) : fail("What was dropped is no file.")));
players.forEach((player, i) => player.addEventListener("play", () => players[1 - i].pause()));

async function read(chosen) {
  [latest, recording] = [chosen, null];
  end(`Reading ${chosen.name} …`);
  try {
    const decoded = await new OfflineAudioContext(1, 1, sampleRate).decodeAudioData(await chosen.arrayBuffer());
    if (latest !== chosen) return;
    const channels = Array.from({ length: decoded.numberOfChannels }, (_, c) => decoded.getChannelData(c));
    const frames = Math.floor(Math.min(decoded.length, facts.seconds * sampleRate) / hopLength);
    recording = channels[0].slice(0, frames * hopLength).map((_, t) => channels.reduce((sum, x) => sum + x[t], 0) / channels.length);
    if (frames < facts.frames) throw new Error(`it has ${decoded.duration.toFixed(3)} s, and ${(facts.frames * hopLength) / sampleRate} s are needed`);
  } catch (error) {
    if (latest !== chosen) return;
    recording = null;
    return fail(`${chosen.name} can't be used: ${error.message}. Choose a WAV, FLAC, MP3 or Ogg file.`);
  }
  draw();
}

function draw() {
  end("");
  if (typeof engine === "undefined") return fail("The file engine.js is missing or broken: it must lie beside this page.");
  const started = performance.now(), seconds = recording.length / sampleRate;
  let doing = "Starting";
  const tick = () => (progress.textContent = `${doing}: ${((performance.now() - started) / 1000).toFixed(0)} s …`);
  worker ??= new Worker(URL.createObjectURL(new Blob([document.getElementById("worker").textContent], { type: "text/javascript" })));
  clock = setInterval(tick, 500);
  worker.onmessage = ({ data }) => {
    if (data.doing) return ({ doing } = data), tick();
    if (data.error) return fail(`The drawing failed: ${data.error}. Try a shorter recording, or another browser.`);
    clock = clearInterval(clock);
    end(`${seconds.toFixed(1)} s of audio in ${data.seconds.toFixed(1)} s: ${(seconds / data.seconds).toFixed(1)} x real time.`);
    [recording, data.audio].forEach((audio, i) => {
      URL.revokeObjectURL(players[i].src);
      players[i].src = URL.createObjectURL(wav([audio], sampleRate));
    });
    heard.hidden = false;
  };
  worker.onerror = (event) => fail(`The drawing failed: ${event.message}.`);
  const [temperature, speaker] = ["temperature", "speaker"].map((id) => Number(document.getElementById(id).value));
  worker.postMessage({ engine, facts, audio: recording, temperature, speaker });
  stop.hidden = false;
}

// Stops the drawing, if there is one; a worker that is done stays, with the model.
function end(words) {
  if (clock) worker = worker.terminate();
  clock = clearInterval(clock);
  players.forEach((player) => player.pause());
  [progress.textContent, failure.textContent, stop.hidden, again.hidden, heard.hidden] = [words, "", true, !recording, true];
}

function fail(words) {
  end("");
  failure.textContent = words;
}
