"use strict";

// Makes a player of each clip's figures, and its keys. Without it the page still shows and plays everything.

const SHORTEST_VIEW = 0.004; // seconds: a few dozen samples

const clone = (id) => document.getElementById(id).content.cloneNode(true);
const seconds = (time, digits = 2) => time.toFixed(digits);

class Player {
  constructor(section) {
    this.section = section;
    this.seconds = Number(section.dataset.seconds);
    this.figures = [...section.querySelectorAll("figure[data-name]")];
    this.deck = new Deck(Object.fromEntries(this.figures.map((figure) => [figure.dataset.name, takeSound(figure)])));
    this.view = { start: 0, end: this.seconds };
    this.looping = false;
    this.build();
    this.listen();
    this.show();
  }

  find(selector) {
    return this.section.querySelector(selector);
  }

  build() {
    const { section, deck } = this;
    const clip = section.querySelector("h3").firstChild.textContent.trim();
    this.find(".player").append(clone("player"));
    this.find(".lanes").prepend(clone("lanes"));
    this.find("details.all").open = false;
    this.find(".seek").max = this.seconds;
    this.find(".seek").setAttribute("aria-label", `Position in ${clip}`);
    this.buttons = deck.names.map((name, i) => {
      const number = i < 9 ? [make("span", { className: "number", ariaHidden: "true" }, i + 1)] : [];
      const button = make("button", { type: "button" }, ...number, name);
      button.addEventListener("click", () => deck.select(name));
      this.find(".versions").append(button);
      return button;
    });
    this.plots = [...section.querySelectorAll(".plot")];
    this.heads = this.plots.map((plot) => plot.appendChild(make("div", { className: "head" })));
    this.likely = [...section.querySelectorAll("canvas[data-samples]")].map((canvas) => [canvas, bytes(canvas.dataset.samples)]);
    for (const name of section.querySelectorAll(".difference .first")) name.textContent = deck.names[0];
    for (const image of section.querySelectorAll(".lane image")) image.setAttribute("width", section.dataset.pictureSeconds);
  }

  listen() {
    const { section, deck } = this;
    deck.addEventListener("change", () => this.show());
    deck.addEventListener("time", () => this.follow());
    this.find(".play").addEventListener("click", () => this.toggle());
    this.find(".seek").addEventListener("input", (event) => deck.seek(Number(event.target.value)));
    this.find(".loop").addEventListener("click", () => this.loop());
    for (const button of section.querySelectorAll("[data-zoom]")) {
      button.addEventListener("click", () => this.zoom(button.dataset.zoom));
    }
    for (const plot of this.plots) this.listenTo(plot);
    for (const type of ["pointerdown", "focusin"]) section.addEventListener(type, () => activate(this));
    new ResizeObserver(() => this.draw()).observe(this.find("canvas"));
    document.addEventListener("themechange", () => this.draw());
    const near = new IntersectionObserver((entries) => {
      if (!entries.some((entry) => entry.isIntersecting)) return;
      near.disconnect();
      this.attempt(this.deck.load());
    }, { rootMargin: "800px" });
    near.observe(section);
  }

  // A click goes there, a drag moves the view, Ctrl and the wheel (or two fingers on a pad) zoom about the pointer.
  listenTo(plot) {
    const at = (event) => {
      const box = plot.getBoundingClientRect();
      return this.view.start + ((event.clientX - box.left) / box.width) * (this.view.end - this.view.start);
    };
    let from = null;
    plot.addEventListener("pointerdown", (event) => {
      if (event.button === 0) from = { x: event.clientX, time: at(event), moved: false };
    });
    plot.addEventListener("pointermove", (event) => {
      if (!from || (!from.moved && Math.abs(event.clientX - from.x) < 5)) return;
      if (!from.moved) plot.setPointerCapture(event.pointerId);
      from.moved = true;
      const shift = from.time - at(event);
      this.setView(this.view.start + shift, this.view.end + shift);
    });
    plot.addEventListener("pointerup", (event) => {
      if (from && !from.moved) this.deck.seek(at(event));
      from = null;
    });
    plot.addEventListener("pointercancel", () => (from = null));
    plot.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && !event.metaKey) return;
      event.preventDefault();
      this.zoomBy(Math.exp(event.deltaY / 200), at(event));
    }, { passive: false });
  }

  toggle() {
    activate(this);
    this.attempt(this.deck.toggle());
  }

  async attempt(promise) {
    try {
      await promise;
    } catch {
      this.find(".status").textContent = "This browser could not decode the sounds: open the wav files in the folder clips.";
    }
  }

  loop() {
    this.looping = !this.looping;
    this.setView(this.view.start, this.view.end);
  }

  zoom(direction) {
    if (direction === "whole") return this.setView(0, this.seconds);
    const { time } = this.deck;
    const inside = time >= this.view.start && time <= this.view.end;
    this.zoomBy(direction === "in" ? 0.5 : 2, inside ? time : (this.view.start + this.view.end) / 2);
  }

  zoomBy(factor, about) {
    const { start, end } = this.view;
    const width = Math.min(Math.max((end - start) * factor, SHORTEST_VIEW), this.seconds);
    const left = about - ((about - start) * width) / (end - start);
    this.setView(left, left + width);
  }

  setView(start, end) {
    const width = Math.min(end - start, this.seconds);
    start = Math.min(Math.max(0, start), this.seconds - width);
    this.view = { start, end: start + width };
    if (this.looping) this.deck.loop(start, start + width);
    else this.deck.loop();
    this.show();
  }

  // All that depends on version, view or state.
  show() {
    const { section, deck, view } = this;
    const width = view.end - view.start;
    this.find(".play").textContent = deck.playing ? "Pause" : "Play";
    this.buttons.forEach((button, i) => button.setAttribute("aria-pressed", deck.names[i] === deck.selected));
    this.find(".loop").setAttribute("aria-pressed", this.looping);
    for (const label of section.querySelectorAll(".selected")) label.textContent = deck.selected;
    const figure = this.figures[deck.names.indexOf(deck.selected)];
    for (const kind of ["mel", "difference"]) {
      const lane = this.find(`.lane.${kind}`);
      const picture = figure.querySelector(`img.${kind}`);
      lane.querySelector("svg").setAttribute("aria-label", picture ? picture.alt : "No difference: the recording itself");
      setOnce(lane.querySelector("image"), "href", picture ? picture.src : "data:,");
      lane.classList.toggle("empty", !picture); // it keeps its place, so that nothing jumps as versions are switched, and says why it is empty
    }
    for (const label of section.querySelectorAll(".against")) label.hidden = deck.selected === deck.names[0];
    for (const path of section.querySelectorAll(".pitch .other")) path.classList.toggle("off", path.dataset.name !== deck.selected);
    for (const svg of section.querySelectorAll(".lane svg")) setOnce(svg, "viewBox", `${view.start} 0 ${width} 100`);
    this.find(".span").textContent = width < this.seconds ? `${seconds(view.start, 3)} to ${seconds(view.end, 3)} s` : "";
    this.draw();
    this.follow();
  }

  // All that depends on the time.
  follow() {
    const { time, playing } = this.deck;
    const width = this.view.end - this.view.start;
    if (playing && !this.looping && width < this.seconds && (time > this.view.end || time < this.view.start)) {
      this.view = { start: Math.min(time, this.seconds - width), end: Math.min(time + width, this.seconds) };
      return this.show();
    }
    const place = (time - this.view.start) / width;
    for (const head of this.heads) {
      head.hidden = place < 0 || place > 1;
      head.style.left = `${100 * place}%`;
    }
    this.find(".seek").value = time;
    this.find(".seek").setAttribute("aria-valuetext", `${seconds(time, 1)} seconds`);
    this.find(".time").textContent = `${seconds(time)} / ${seconds(this.seconds)} s`;
  }

  // Of all versions in view: they share one scale, so that their levels compare.
  peak() {
    let peak = 1e-4;
    for (const buffer of Object.values(this.deck.buffers)) {
      const samples = buffer.getChannelData(0);
      const end = Math.min(samples.length, Math.ceil(this.view.end * buffer.sampleRate));
      for (let i = Math.floor(this.view.start * buffer.sampleRate); i < end; i++) peak = Math.max(peak, Math.abs(samples[i]));
    }
    return peak;
  }

  // What there is of each sample: the waveform, and its log-likelihoods.
  draw() {
    const buffer = this.deck.buffers[this.deck.selected];
    const peak = this.peak();
    if (buffer) this.plot(this.find("canvas"), buffer.getChannelData(0), -peak, peak);
    for (const [canvas, samples] of this.likely) this.plot(canvas, samples, 0, 255);
  }

  // Samples in view: least and greatest of each column, or the samples themselves where there are few.
  plot(canvas, samples, bottom, top) {
    const scale = devicePixelRatio;
    const [width, height] = [Math.round(canvas.clientWidth * scale), Math.round(canvas.clientHeight * scale)];
    if (!width) return;
    Object.assign(canvas, { width, height });
    const pen = canvas.getContext("2d");
    const [first, step] = [this.view.start * Deck.sampleRate, ((this.view.end - this.view.start) * Deck.sampleRate) / width];
    const y = (sample) => height * (0.96 - (0.92 * (sample - bottom)) / (top - bottom)); // as the lanes' SVG
    pen.strokeStyle = pen.fillStyle = getComputedStyle(canvas).color;
    pen.globalAlpha = 0.3;
    pen.fillRect(0, y(0), width, scale);
    pen.globalAlpha = 1;
    canvas.classList.toggle("near", step <= 2);
    if (step > 2) {
      for (let x = 0; x < width; x++) {
        let [low, high] = [Infinity, -Infinity];
        const end = Math.min(samples.length, Math.ceil(first + (x + 1) * step) + 1); // one of the next column: no gaps
        for (let i = Math.max(0, Math.floor(first + x * step)); i < end; i++) {
          low = Math.min(low, samples[i]);
          high = Math.max(high, samples[i]);
        }
        if (high >= low) pen.fillRect(x, y(high), 1, Math.max(scale, y(low) - y(high)));
      }
      return;
    }
    pen.lineWidth = 1.5 * scale;
    pen.beginPath();
    for (let i = Math.max(0, Math.floor(first)); i <= first + width * step + 1 && i < samples.length; i++) {
      pen.lineTo((i - first) / step, y(samples[i]));
      if (step < 0.15) pen.rect((i - first) / step - scale, y(samples[i]) - scale, 2 * scale, 2 * scale);
      pen.moveTo((i - first) / step, y(samples[i]));
    }
    pen.stroke();
  }
}

// The sound's data URI; the element goes, since the deck plays it from now on.
function takeSound(figure) {
  const audio = figure.querySelector("audio");
  audio.remove();
  return audio.getAttribute("src");
}

function setOnce(element, name, value) {
  if (element.getAttribute(name) !== value) element.setAttribute(name, value);
}

// Keys -----------------------------------------------------------------------------------------------------------------

let players = [];
let active = null;

function activate(player) {
  if (active === player) return;
  active?.section.classList.remove("active");
  active = player;
  active.section.classList.add("active");
}

// Goes to another clip: the same version, playing if this one was.
function step(by) {
  const next = players[players.indexOf(active) + by];
  if (!next) return;
  const { playing, selected } = active.deck;
  active.deck.pause();
  if (next.deck.names.includes(selected)) next.deck.select(selected);
  activate(next);
  next.section.scrollIntoView({ block: "start" });
  if (playing) next.toggle();
}

const KEYS = {
  " ": () => active.toggle(),
  j: () => step(1),
  k: () => step(-1),
  l: () => active.loop(),
  "+": () => active.zoom("in"),
  "=": () => active.zoom("in"),
  "-": () => active.zoom("out"),
  0: () => active.zoom("whole"),
  ArrowLeft: (event) => active.deck.seek(active.deck.time - (event.shiftKey ? 0.1 : 1)),
  ArrowRight: (event) => active.deck.seek(active.deck.time + (event.shiftKey ? 0.1 : 1)),
};
for (let i = 0; i < 9; i++) {
  KEYS[i + 1] = () => i < active.deck.names.length && active.deck.select(active.deck.names[i]);
}

document.addEventListener("keydown", (event) => {
  if (!active || event.ctrlKey || event.metaKey || event.altKey || !document.getElementById("keys").checked) return;
  const own = event.target.closest("button, summary, a, input[type=checkbox]");
  if (event.target.closest("input[type=range], audio") && event.key !== " ") {
    if (event.key.startsWith("Arrow")) return; // the slider's own
  } else if (own && event.key === " ") {
    return; // presses what has the focus
  }
  const action = KEYS[event.key];
  if (!action) return;
  event.preventDefault();
  action(event);
});

// A button clicked with the pointer gives the focus back, so that the space bar plays and does not press it again.
document.addEventListener("click", (event) => {
  const button = event.target.closest(".clip button, summary");
  if (button && event.detail > 0) button.blur();
});

players = [...document.querySelectorAll(".clip")].map((section) => new Player(section));
if (players.length) {
  players[0].section.before(clone("help"));
  activate(players[0]);
}
