"use strict";

// Several versions of one clip, played in lockstep, of which one is heard.
//
//   version A -> gain 0 --.
//   version B -> gain 1 ---+-> loudspeaker      all sources start at one instant of the audio clock; choosing another
//   version C -> gain 0 --'                     version only moves the gains, so the position stays, to the sample
//
// Events: "change" (play, pause, end, seek, select, load), "time" (each animation frame while playing).
class Deck extends EventTarget {
  static #context = null; // one per page, made at the first gesture, as browsers demand
  static #current = null; // the deck that plays, or will once it is loaded: at most one
  static FADE = 0.01; // seconds of the cross-fade: no click, and too short to hear as one

  // Of decoding and playing alike: a source at another rate than its context would be interpolated linearly, audibly.
  static get sampleRate() {
    return Number(document.documentElement.dataset.sampleRate);
  }

  static get #audio() {
    return (Deck.#context ??= new AudioContext({ sampleRate: Deck.sampleRate }));
  }

  #sources;
  #loading = null;
  #nodes = null; // name -> {source, gain}, while playing
  #started = 0; // audio clock at which `#offset` was, or will be, heard
  #offset = 0;
  #loop = null;

  // sources: name -> FLAC or WAV file, as data URI or in base64.
  constructor(sources) {
    super();
    this.#sources = { ...sources };
    this.names = Object.keys(sources);
    this.selected = this.names[0];
    this.duration = 0;
    this.buffers = {}; // name -> AudioBuffer, all of one length, once loaded
  }

  // Decodes all versions; safe to call again. Needs no gesture: an offline context may decode before one.
  load() {
    return (this.#loading ??= this.#decode());
  }

  async #decode() {
    const decoder = new OfflineAudioContext(1, 1, Deck.sampleRate);
    const buffers = await Promise.all(this.names.map((name) => decoder.decodeAudioData(bytes(this.#sources[name]).buffer)));
    const length = Math.max(...buffers.map((buffer) => buffer.length));
    this.names.forEach((name, i) => (this.buffers[name] = padded(decoder, buffers[i], length)));
    this.duration = length / Deck.sampleRate;
    this.#sources = null; // the encoded files are not needed again
    this.#tell("change");
  }

  get playing() {
    return this.#nodes !== null;
  }

  // Seconds from the beginning, of what is heard.
  get time() {
    if (!this.playing) return this.#offset;
    const time = this.#offset + Math.max(0, Deck.#audio.currentTime - this.#started);
    if (!this.#loop) return Math.min(time, this.duration);
    const { start, end } = this.#loop;
    return time < end ? time : start + ((time - start) % (end - start));
  }

  async play() {
    if (Deck.#current === this) return;
    Deck.#current?.pause();
    Deck.#current = this;
    const audio = Deck.#audio; // made here, within the gesture: after an await it might be too late
    const running = audio.state === "running" ? null : audio.resume();
    try {
      await this.load();
      await running;
    } catch (error) {
      if (Deck.#current === this) Deck.#current = null;
      throw error;
    }
    if (Deck.#current !== this) return; // paused meanwhile, or another deck's turn
    if (this.#offset >= this.duration) this.#offset = 0;
    this.#start();
    this.#tell("change");
    this.#tick();
  }

  pause() {
    if (Deck.#current === this) Deck.#current = null;
    if (!this.playing) return;
    this.#offset = this.time;
    this.#stop();
    this.#tell("change");
  }

  toggle() {
    return Deck.#current === this ? this.pause() : this.play();
  }

  seek(seconds) {
    const playing = this.playing;
    if (playing) this.#stop();
    this.#offset = Math.min(Math.max(0, seconds), this.duration);
    if (this.#loop && this.#offset >= this.#loop.end) this.#offset = this.#loop.start;
    if (playing) this.#start();
    this.#tell("change");
  }

  // Lets another version be heard, at the same position.
  select(name) {
    if (!this.names.includes(name)) throw new RangeError(`no version ${name} among ${this.names.join(", ")}`);
    this.selected = name;
    this.#fade();
    this.#tell("change");
  }

  // Plays a stretch again and again; without arguments, to the end again.
  loop(start, end) {
    const time = this.time;
    this.#loop = end > start ? { start, end } : null;
    this.seek(this.#loop ? Math.max(start, time) : time);
  }

  #start() {
    const audio = Deck.#audio;
    this.#started = audio.currentTime + Deck.FADE; // a little ahead, so that all sources make it
    this.#nodes = {};
    for (const name of this.names) {
      const source = new AudioBufferSourceNode(audio, { buffer: this.buffers[name] });
      if (this.#loop) Object.assign(source, { loop: true, loopStart: this.#loop.start, loopEnd: this.#loop.end });
      const gain = new GainNode(audio, { gain: this.#level(name) });
      source.connect(gain).connect(audio.destination);
      source.start(this.#started, this.#offset);
      this.#nodes[name] = { source, gain };
    }
    const nodes = this.#nodes;
    nodes[this.names[0]].source.onended = () => nodes === this.#nodes && this.#finish();
  }

  #stop() {
    const now = Deck.#audio.currentTime;
    for (const { source, gain } of Object.values(this.#nodes)) {
      approach(gain, 0, now);
      source.stop(now + 2 * Deck.FADE);
    }
    this.#nodes = null;
  }

  #finish() {
    this.#stop();
    Deck.#current = null;
    this.#offset = this.duration;
    this.#tell("change");
  }

  #level(name) {
    return name === this.selected ? 1 : 0;
  }

  #fade() {
    if (!this.playing) return;
    const now = Deck.#audio.currentTime;
    for (const name of this.names) approach(this.#nodes[name].gain, this.#level(name), now);
  }

  #tick() {
    if (!this.playing) return;
    this.#tell("time");
    requestAnimationFrame(() => this.#tick());
  }

  #tell(type) {
    this.dispatchEvent(new Event(type));
  }
}

// An exponential approach: it may start anywhere, even within another one, and two opposite ones add up to a constant.
function approach(gain, level, now) {
  gain.gain.setTargetAtTime(level, now, Deck.FADE / 5);
}

// An element with its properties and what it holds.
function make(tag, properties, ...content) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...content);
  return element;
}

// The bytes of base64, bare or in a data URI.
function bytes(source) {
  return Uint8Array.from(atob(source.slice(source.indexOf(",") + 1)), (character) => character.charCodeAt(0));
}

function padded(context, buffer, length) {
  if (buffer.length === length) return buffer;
  const longer = context.createBuffer(buffer.numberOfChannels, length, buffer.sampleRate);
  for (let c = 0; c < buffer.numberOfChannels; c++) longer.copyToChannel(buffer.getChannelData(c), c);
  return longer;
}
