"use strict";

// Sends a recording or a text to the server, and shows the report, or plays the speech, that comes back.
const at = (id) => document.getElementById(id);
const form = at("form");
const longest = Number(document.documentElement.dataset.seconds);
let sound = null; // the recording that was chosen last
let asking = null; // ends the request under way
let stop = null; // ends the recording from the microphone, while there is one

function say(words, wrong = false) {
  at("status").textContent = words;
  at("status").classList.toggle("wrong", wrong);
}

// Returns what the server answers, as a blob; undefined when it refuses, which is said, or when another request took over.
async function ask(path, body, names, words) {
  if (!form.reportValidity()) return undefined;
  asking?.abort();
  const { signal } = (asking = new AbortController());
  const chosen = [...new FormData(form)].filter(([name, value]) => names.includes(name) && value !== "");
  const headers = at("token").value ? { Authorization: `Bearer ${at("token").value}` } : {};
  say(words);
  try {
    const answer = await fetch(`${path}?${new URLSearchParams(chosen)}`, { method: "POST", body, headers, signal });
    if (answer.ok) return await answer.blob();
    if (answer.status === 401) at("token").parentElement.hidden = false;
    const { detail } = await answer.json();
    say(detail.map?.(({ loc, msg }) => `${loc.at(-1)}: ${msg}`).join("; ") ?? detail, true);
  } catch (error) {
    if (!signal.aborted) say(`The server gave no answer (${error.message}).`, true);
  }
  return undefined;
}

function showAt(element, key, blob) {
  URL.revokeObjectURL(element[key]);
  element[key] = URL.createObjectURL(blob);
  element.hidden = false;
}

async function draw() {
  const page = await ask("v1/report", sound, ["model", "temperature", "passes", "seed", "speaker"], `Drawing after ${sound.name} …`);
  if (!page) return;
  showAt(at("report"), "src", page);
  showAt(at("save"), "href", page);
  at("keep").hidden = false;
  say(`${sound.name} and what the model drew are below.`);
}

async function speak() {
  const speech = await ask("v1/speak", at("text").value, ["model", "passes", "seed", "speaker"], "Speaking …");
  if (!speech) return;
  showAt(at("spoken"), "src", speech);
  say("");
  at("spoken").play();
}

function take(file) {
  if (!file) return;
  if (file !== at("file").files[0]) at("file").value = ""; // which would still show the name of another
  sound = file;
  at("draw").disabled = false;
  draw();
}

// Records the microphone as it is, until it is stopped or the limit is reached; takes the sound as a WAV file.
async function record() {
  const plain = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };
  const microphone = await navigator.mediaDevices.getUserMedia({ audio: plain });
  const audio = new AudioContext();
  const tap = `registerProcessor("tap", class extends AudioWorkletProcessor {
    process([[samples]]) { if (samples) this.port.postMessage(samples.slice()); return true; } });`;
  await audio.audioWorklet.addModule(URL.createObjectURL(new Blob([tap], { type: "text/javascript" })));
  const node = new AudioWorkletNode(audio, "tap", { numberOfOutputs: 0, channelCount: 1, channelCountMode: "explicit" });
  const pieces = [];
  node.port.onmessage = ({ data }) => pieces.push(data);
  audio.createMediaStreamSource(microphone).connect(node);
  const timer = setTimeout(() => stop(), 1000 * (longest - 0.5));
  at("record").setAttribute("aria-pressed", "true");
  at("record").textContent = "Stop";
  say("Recording …");
  stop = async () => {
    stop = null;
    clearTimeout(timer);
    microphone.getTracks().forEach((track) => track.stop());
    await audio.close();
    at("record").setAttribute("aria-pressed", "false");
    at("record").textContent = "Record";
    take(new File([wav(pieces, audio.sampleRate)], "Your recording"));
  };
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (sound) draw();
});
at("file").addEventListener("change", () => take(at("file").files[0]));
at("speak").addEventListener("click", speak);
at("record").addEventListener("click", () => {
  if (stop) stop();
  else record().catch((error) => say(`The microphone can't be used (${error.message}).`, true));
});
at("record").hidden = !navigator.mediaDevices; // browsers give no microphone to a page without TLS, unless it is this machine's
for (const type of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(type, (event) => {
    event.preventDefault();
    document.body.classList.toggle("over", type === "dragover");
    if (type === "drop") take(event.dataTransfer.files[0]);
  });
}
at("report").addEventListener("load", () => {
  const page = at("report").contentDocument.documentElement;
  new ResizeObserver(() => (at("report").style.height = `${page.offsetHeight}px`)).observe(page);
});

fetch("healthz")
  .then((answer) => answer.json())
  .then(({ models, speaks, speakers }) => {
    const names = Object.keys(models).filter((name) => models[name].draws && models[name].n_mels);
    form.model.replaceChildren(...names.map((name) => new Option(name)));
    form.speaker.parentElement.hidden = !speakers;
    at("speech").hidden = !speaks;
  })
  .catch((error) => say(`The server gave no answer (${error.message}).`, true));
