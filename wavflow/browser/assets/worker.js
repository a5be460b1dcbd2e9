// Draws recordings apart from the page, which stays alive; follows mel.js. The model is loaded for the first one.
let loaded = null;

onmessage = async ({ data: { engine, facts, audio, temperature, speaker } }) => {
  try {
    postMessage({ doing: "Loading the model" });
    const { ort, session } = await (loaded ??= load(engine));
    postMessage({ doing: "Drawing" });
    const started = performance.now();
    const { spec } = facts, frames = Math.floor(audio.length / spec.hop_length);
    const noise = Float32Array.from({ length: frames * spec.hop_length }, facts.logistic ? logistic : normal).map((x) => temperature * x);
    const given = {
      mel: new ort.Tensor("float32", logMel(audio, spec), [1, spec.n_mels, frames]),
      noise: new ort.Tensor("float32", noise, [1, noise.length]),
    };
    if (facts.speakers) given.speaker = new ort.Tensor("int64", BigInt64Array.of(BigInt(speaker)), [1]);
    const drawn = (await session.run(given, ["audio"])).audio.data;
    postMessage({ audio: drawn, seconds: (performance.now() - started) / 1000 });
  } catch (error) {
    postMessage({ error: String(error?.message ?? error) });
  }
};

async function load(engine) {
  const ort = await import(URL.createObjectURL(new Blob([await unpacked(engine.runtime)], { type: "text/javascript" })));
  // One thread: more need headers that neither a disk nor every host sends.
  Object.assign(ort.env.wasm, { numThreads: 1, wasmBinary: await unpacked(engine.wasm) });
  // Optimizing the graph takes seconds and gains nothing.
  const options = { executionProviders: ["wasm"], graphOptimizationLevel: "disabled" };
  return { ort, session: await ort.InferenceSession.create(await unpacked(engine.graph), options) };
}

// Returns the bytes of a file that was compressed by gzip and coded in base64.
function unpacked(text) {
  const packed = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  return new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
}

// Math.random is from 0 on and below 1.
const normal = () => Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());

function logistic() {
  const uniform = 2 ** -41 + (1 - 2 ** -40) * Math.random();
  return Math.log(uniform / (1 - uniform));
}
