"use strict";

// The screens of the listening test: start, one trial after another, end.
(() => {
  const $ = (id) => document.getElementById(id);
  const RANGES = ["Bad", "Poor", "Fair", "Good", "Excellent"];
  const STORE = `wavflow-listen-${listening.page}`;
  let session = null;
  let trial = null; // the one on the screen
  let deck = null;
  let shown = 0; // when the trial was put on the screen or last kept, ms
  let position = 0; // of the last "time" event, s

  // ---- what is kept

  function store(value) {
    try {
      if (value === undefined) return JSON.parse(localStorage.getItem(STORE));
      if (value === null) localStorage.removeItem(STORE);
      else localStorage.setItem(STORE, JSON.stringify(value));
    } catch {
      // pages from disk may be denied a store, or what is in it may be damaged: the test works without
    }
    return null;
  }

  function keep() {
    if (trial) session.draft.seconds += (performance.now() - shown) / 1000;
    shown = performance.now();
    store(session);
  }

  function save() {
    const link = make("a", { href: URL.createObjectURL(new Blob([session.csv()], { type: "text/csv" })) });
    link.download = `listen-${session.test}-${session.listener.replace(/[^\w-]+/g, "_")}-${session.seed}.csv`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
    store(null);
    $("again").disabled = false;
  }

  // ---- screens

  function screen(name) {
    deck?.pause();
    for (const each of document.querySelectorAll(".screen")) each.hidden = each.id !== name;
    $(name).querySelector("h1").focus({ preventScroll: true });
    scrollTo(0, 0);
  }

  function start() {
    trial = null;
    session = Session.from(store());
    $("resume").hidden = !session;
    $("new").hidden = session !== null;
    if (session) {
      const [name, done, count] = [session.test.toUpperCase(), session.answers.length, session.trials.length];
      $("resume-text").textContent = session.isDone
        ? `${name} is done, but not saved as a file.`
        : `${name}: ${done} of ${count} ${done === 1 ? "is" : "are"} done.`;
    }
    screen("start");
    const sample = (deck = new Deck({ sample: stimuli({ clip: 0, order: [] }).Reference }));
    const showState = () => {
      $("check").textContent = sample.playing ? "Stop the sample" : "Play the sample";
      $("check").setAttribute("aria-pressed", sample.playing);
    };
    sample.addEventListener("change", showState);
    showState();
  }

  const fresh = () => crypto.getRandomValues(new Uint32Array(1))[0];

  function begin(test) {
    const given = new URLSearchParams(location.search).get("seed") ?? "";
    const seed = /^\d{1,10}$/.test(given) ? Number(given) % 2 ** 32 : fresh();
    const listener = $("listener").value.trim() || fresh().toString(16).padStart(8, "0");
    session = new Session({ test, seed, listener });
    run();
  }

  function run() {
    if (session.isDone) finish();
    else ask();
  }

  function ask() {
    const { trials, answers } = session;
    const abx = session.test === "abx";
    trial = trials[answers.length];
    session.draft ??= { heard: {}, ratings: {}, answer: null, seconds: 0 };
    shown = performance.now();
    position = 0;

    $("progress-text").textContent = `${abx ? "Trial" : "Screen"} ${answers.length + 1} of ${trials.length}`;
    $("progress").value = answers.length;
    $("progress").max = trials.length;
    $("question").textContent = abx ? "Which one is X?" : "How close is each sound to the reference?";
    $("abx").hidden = !abx;
    $("mushra").hidden = abx;
    deck?.pause();
    deck = new Deck(stimuli(trial));
    if (abx) drawAbx();
    else drawMushra();
    $("keys").replaceChildren(...(abx ? ABX_KEYS : MUSHRA_KEYS).map(keyHelp));
    $("next").textContent = answers.length + 1 < trials.length ? "Next" : "Finish";
    listen(deck);
    screen("trial");
    update();
    keep();
  }

  function listen(current) {
    const guard = (act) => () => current === deck && act();
    current.addEventListener("change", guard(() => ((position = current.time), update())));
    current.addEventListener("time", guard(advance));
    current.load().then(
      guard(() => (repeat(), update())),
      guard(() => complain("A sound can't be decoded by this browser: try another one, such as Firefox or Chrome.")),
    );
  }

  function complain(message) {
    $("alert").textContent = message;
    $("alert").hidden = false;
  }

  function repeat() {
    if (!deck.duration) return; // loaded later, and called again then
    if ($("repeat").checked) deck.loop(0, deck.duration);
    else deck.loop();
  }

  // A sound counts as heard after a second of it, or half of a short one.
  function advance() {
    const { heard } = session.draft;
    const before = heard[deck.selected] ?? 0;
    heard[deck.selected] = before + Math.max(0, deck.time - position);
    position = deck.time;
    if (!isHeardFrom(before) && isHeard(deck.selected)) keep();
    update();
  }

  const isHeardFrom = (seconds) => deck.duration > 0 && seconds >= Math.min(1, deck.duration / 2);
  const isHeard = (name) => isHeardFrom(session.draft.heard[name] ?? 0);

  function hear(name) {
    deck.select(name);
    deck.play();
    $(`rating-${deck.names.indexOf(name)}`)?.focus();
  }

  function soundButton(name) {
    const button = make("button", { type: "button" }, name);
    button.dataset.sound = name;
    button.addEventListener("click", () => (deck.select(name), deck.play()));
    return button;
  }

  function drawAbx() {
    document.querySelector(".sounds").replaceChildren(...deck.names.map(soundButton));
    for (const radio of document.getElementsByName("answer")) radio.checked = radio.value === session.draft.answer;
  }

  function drawMushra() {
    const reference = make("div", { className: "reference" }, soundButton("Reference"));
    const ranges = make("ol", { ariaLabel: "The scale" }, ...RANGES.map((range) => make("li", {}, range)));
    const scale = make("div", { className: "scale" }, ranges);
    $("mushra").replaceChildren(reference, scale, ...deck.names.slice(1).map(ratingRow));
  }

  function ratingRow(name) {
    const given = session.draft.ratings[name];
    const place = { id: `rating-${deck.names.indexOf(name)}`, ariaLabel: `Rating of ${name}` };
    const slider = make("input", { type: "range", min: 0, max: 100, step: 1, value: given ?? 50, ...place });
    const value = make("output", { htmlFor: slider.id });
    const row = make("div", { className: "rating" }, soundButton(name), make("span", { className: "track" }, slider), value);
    const show = (rated) => {
      const range = RANGES[Math.min(4, Math.floor(slider.value / 20))];
      value.textContent = rated ? slider.value : "–";
      slider.setAttribute("aria-valuetext", rated ? `${slider.value}, ${range.toLowerCase()}` : "not rated yet");
      row.toggleAttribute("data-rated", rated);
    };
    const rate = () => {
      session.draft.ratings[name] = Number(slider.value);
      show(true);
      keep();
      update();
    };
    slider.addEventListener("input", rate);
    slider.addEventListener("pointerup", rate); // a press on the thumb where it is means that it belongs there
    show(given !== undefined);
    return row;
  }

  const unheard = () => deck.names.filter((name) => !isHeard(name));
  const unrated = () => (trial.order ? deck.names.slice(1).filter((name) => session.draft.ratings[name] === undefined) : []);

  const few = (names) => (names.length > 3 ? `${names.length} sounds` : names.join(", "));

  function missing() {
    if (!deck.duration) return "Loading the sounds.";
    if (unheard().length) return `Still to hear: ${few(unheard())}.`;
    if (unrated().length) return `Still to rate: ${few(unrated())}.`;
    return trial.order || session.draft.answer ? "" : "Choose A or B.";
  }

  function update() {
    if (!trial) return;
    for (const button of document.querySelectorAll("[data-sound]")) {
      button.setAttribute("aria-pressed", deck.playing && deck.selected === button.dataset.sound);
      button.toggleAttribute("data-heard", isHeard(button.dataset.sound));
    }
    $("play").textContent = deck.playing ? "Pause" : "Play";
    $("position").max = deck.duration || 1;
    $("position").value = deck.time;
    $("time").textContent = `${deck.time.toFixed(1)} of ${deck.duration.toFixed(1)} s`;
    const hint = missing();
    $("next").disabled = hint !== "";
    if ($("hint").textContent !== hint) $("hint").textContent = hint; // only news, since a screen reader reads it
  }

  function next() {
    if (!trial || missing()) return;
    keep();
    const { answer, ratings, seconds } = session.draft;
    const done = { date: new Date().toISOString(), seconds };
    session.answers.push(trial.order ? { ...done, ratings: deck.names.slice(1).map((name) => ratings[name]) } : { ...done, answer });
    session.draft = trial = null;
    keep();
    run();
  }

  // ---- the end

  function finish() {
    const abx = session.test === "abx";
    const groups = new Map();
    for (const row of session.rows()) {
      const name = abx ? [row.a, row.b].sort().join(" and ") : row.system;
      groups.set(name, [...(groups.get(name) ?? []), abx ? row.correct : row.rating]);
    }
    const sum = (values) => values.reduce((a, b) => a + b, 0);
    const lines = [...groups].map(([name, values]) =>
      abx
        ? [name, `${sum(values)} of ${values.length}`, chance(sum(values), values.length).toPrecision(2)]
        : [name, (sum(values) / values.length).toFixed(1), String(values.length)],
    );
    if (!abx) lines.sort((a, b) => b[1] - a[1]);
    table(abx ? ["Pair", "Correct", "p"] : ["System", "Your mean rating", "Ratings"], lines);
    $("result-title").textContent = abx ? "What you heard apart" : "How you rated them";
    $("result-note").textContent =
      (abx ? "p: how often guessing alone does as well or better (exact binomial test). " : "") +
      `Listener ${session.listener}, seed ${session.seed}, page ${listening.page}.`;
    $("again").disabled = true; // until the results are saved
    screen("end");
  }

  function table(head, lines) {
    const titles = head.map((title, i) => make("th", { scope: "col", className: i ? "number" : "" }, title));
    const row = ([name, ...values]) =>
      make("tr", {}, make("th", { scope: "row" }, name), ...values.map((value) => make("td", { className: "number" }, value)));
    $("result-head").replaceChildren(make("tr", {}, ...titles));
    $("result-body").replaceChildren(...lines.map(row));
  }

  // ---- keys

  const COMMON_KEYS = [["Space", "play or pause"], ["Enter", "next"]];
  const ABX_KEYS = [["A B X", "listen"], ["1 2", "answer A or B"], ...COMMON_KEYS];
  const MUSHRA_KEYS = [["R", "reference"], ["1 2 …", "listen"], ["← →", "rate it"], ...COMMON_KEYS];

  function keyHelp([names, meaning]) {
    return make("span", {}, ...names.split(" ").flatMap((name) => [make("kbd", {}, name), " "]), meaning);
  }

  function press(event) {
    if (!trial || event.ctrlKey || event.metaKey || event.altKey) return;
    const name = event.key.length === 1 ? event.key.toUpperCase() : event.key;
    const isButton = ["submit", "button", "checkbox", "radio"].includes(event.target.type); // Space is theirs
    if (name === "Enter" && event.target.tagName !== "BUTTON") next();
    else if (name === " " && !isButton) deck.toggle();
    else if (!trial.order && deck.names.includes(name)) hear(name);
    else if (!trial.order && (name === "1" || name === "2")) document.getElementsByName("answer")[name - 1].click();
    else if (trial.order && name === "R") hear("Reference");
    else if (trial.order && deck.names.includes(`Sound ${name}`)) hear(`Sound ${name}`);
    else return;
    event.preventDefault();
  }

  document.addEventListener("keydown", press);
  $("check").addEventListener("click", () => deck.toggle());
  $("start-abx").addEventListener("click", () => begin("abx"));
  $("start-mushra").addEventListener("click", () => begin("mushra"));
  $("resume-go").addEventListener("click", run);
  $("resume-drop").addEventListener("click", () => (store(null), start()));
  $("play").addEventListener("click", () => deck.toggle());
  $("position").addEventListener("input", () => deck.seek(Number($("position").value)));
  $("repeat").addEventListener("change", repeat);
  $("next").addEventListener("click", next);
  $("save").addEventListener("click", save);
  $("again").addEventListener("click", start);
  for (const radio of document.getElementsByName("answer")) {
    radio.addEventListener("change", () => ((session.draft.answer = radio.value), keep(), update()));
  }
  addEventListener("pagehide", () => trial && keep());

  const minutes = (count) => `about ${Math.ceil(count / 4)} min`; // 15 seconds each
  const [screens, questions] = ["mushra", "abx"].map((test) => plan(test, 0).length);
  $("abx-size").textContent = `${questions} trials, ${minutes(questions)}`;
  $("mushra-size").textContent = `${screens} screens of ${key.systems.length} sounds, ${minutes(screens * key.systems.length)}`;
  start();
})();
