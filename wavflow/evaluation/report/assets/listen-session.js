"use strict";

// One listener's test: what is asked follows from the seed alone, so that what is stored is small and ?seed= repeats it.

const listening = JSON.parse(document.getElementById("data").textContent); // {page, trials, key, sounds[clip][place]}
const key = JSON.parse(new TextDecoder().decode(bytes(listening.key))); // names and places: hidden from the eye, not from who opens the console

class Session {
  static COLUMNS = ["page", "listener", "seed", "test", "date", "trial", "clip", "seconds"].concat(
    ["reference", "system", "rating", "a", "b", "x", "answer", "correct"],
  );

  // `draft` is what is known of the trial on the screen: sound -> seconds heard, sound -> rating, answer, seconds.
  constructor({ test, seed, listener, answers = [], draft = null }) {
    Object.assign(this, { test, seed, listener, answers, draft });
    Object.defineProperty(this, "trials", { value: plan(test, seed), enumerable: false }); // follows, so isn't stored
  }

  // What was stored, or null where that is no session.
  static from(stored) {
    const isOne = stored && ["abx", "mushra"].includes(stored.test) && Array.isArray(stored.answers);
    return isOne ? new Session(stored) : null;
  }

  get isDone() {
    return this.answers.length >= this.trials.length;
  }

  rows() {
    const { listener, seed, test } = this;
    const reference = key.systems[key.reference];
    return this.answers.flatMap(({ date, seconds, answer, ratings }, i) => {
      const { clip, a, b, x, order } = this.trials[i];
      const row = { page: listening.page, listener, seed, test, date, trial: i + 1 };
      Object.assign(row, { clip: key.clips[clip], seconds: seconds.toFixed(1), reference });
      if (order) return order.map((system, j) => ({ ...row, system: key.systems[system], rating: ratings[j] }));
      return [{ ...row, a: key.systems[a], b: key.systems[b], x, answer, correct: answer === x ? 1 : 0 }];
    });
  }

  csv() {
    const cell = (value = "") => (/[",\r\n]/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : String(value));
    const lines = [Session.COLUMNS, ...this.rows().map((row) => Session.COLUMNS.map((column) => row[column]))];
    return lines.map((line) => `${line.map(cell).join(",")}\r\n`).join("");
  }
}

// MUSHRA: each clip once, {clip, order of the systems}. ABX: each pair `trials` times, {clip, a, b, x}.
function plan(test, seed) {
  const random = generator(seed);
  const clips = [...key.clips.keys()];
  if (test === "mushra") {
    const systems = [...key.systems.keys()];
    return shuffled(clips, random).map((clip) => ({ clip, order: shuffled(systems, random) }));
  }
  const trials = key.pairs.flatMap((pair) => {
    const order = shuffled(clips, random);
    return Array.from({ length: listening.trials }, (_, i) => {
      const [a, b] = shuffled(pair, random);
      return { clip: order[i % order.length], a, b, x: random() < 0.5 ? "A" : "B" };
    });
  });
  return shuffled(trials, random);
}

// Name on the screen -> FLAC in base64, of one trial.
function stimuli({ clip, a, b, x, order }) {
  const sound = (system) => listening.sounds[clip][key.orders[clip].indexOf(system)];
  if (!order) return { A: sound(a), B: sound(b), X: sound(x === "A" ? a : b) };
  return { Reference: sound(key.reference), ...Object.fromEntries(order.map((system, i) => [`Sound ${i + 1}`, sound(system)])) };
}

// Random numbers in [0, 1) from a seed of 32 bits: xorshift (Marsaglia, 2003), the same in every browser.
function generator(seed) {
  let state = (seed ^ 0x9e3779b9) >>> 0 || 1;
  const next = () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) / 2 ** 32;
  };
  for (let i = 0; i < 32; i++) next(); // similar seeds begin alike
  return next;
}

function shuffled(items, random) {
  const left = [...items];
  return items.map(() => left.splice(Math.floor(random() * left.length), 1)[0]);
}

// P(at least `correct` of `n` by guessing), exact.
function chance(correct, n) {
  let term = 2 ** -n; // of none; n is 100 at most
  let sum = 0;
  for (let k = 0; k <= n; k++) {
    if (k >= correct) sum += term;
    term *= (n - k) / (k + 1);
  }
  return Math.min(1, sum);
}
