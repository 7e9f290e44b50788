// The page: what is typed, pressed and shown. All text goes in as text, never as HTML.
"use strict";

const $ = (id) => document.getElementById(id);

function make(tag, text = "", attributes = {}) {
  const element = document.createElement(tag);
  element.textContent = text;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

// A token as people can see it: blanks and line ends get a mark, controls a number.
function visible(text) {
  return text.replaceAll(" ", "·").replaceAll("\n", "⏎")
    .replace(/[\u0000-\u001f\u007f-\u009f\u202a-\u202e\u2066-\u2069]/g, (c) => `\\x${c.codePointAt(0).toString(16).padStart(2, "0")}`) || "∅";
}

function decodeBase64(text) {
  const letters = atob(text), bytes = new Uint8Array(letters.length);
  for (let i = 0; i < letters.length; i++) bytes[i] = letters.charCodeAt(i);
  return bytes;
}

function crc32(bytes) { // zlib's checksum
  const table = Int32Array.from({ length: 256 }, (_, n) => {
    for (let bit = 0; bit < 8; bit++) n = n & 1 ? (n >>> 1) ^ 0xedb88320 : n >>> 1;
    return n;
  });
  let sum = -1;
  for (let i = 0; i < bytes.length; i++) sum = (sum >>> 8) ^ table[(sum ^ bytes[i]) & 255];
  return (sum ^ -1) >>> 0;
}

function openModel({ files, crc32: sums }) { // the three files that gptbook writes
  const read = (name) => {
    if (typeof files?.[name] !== "string") throw new Error(`model.js lacks ${name}; export the model again`);
    try {
      const bytes = decodeBase64(files[name]);
      if (crc32(bytes) === sums?.[name]) return bytes;
    } catch {} // said below
    throw new Error(`model.js is damaged at ${name}; export the model again`);
  };
  const json = (name) => {
    try {
      return JSON.parse(new TextDecoder().decode(read(name)));
    } catch (error) {
      throw error instanceof SyntaxError ? new Error(`${name} is damaged; export the model again`) : error;
    }
  };
  const tokenizer = makeTokenizer(json("tokenizer.json"));
  const model = new GPT(json("config.json"), readSafetensors(read("model.safetensors")));
  return { model, tokenizer };
}

class Playground {
  constructor(model, tokenizer, prompt) {
    Object.assign(this, { model, tokenizer, chosen: 0, writing: false, begun: 0, random: makeRandom(1) });
    this.whole = new GPT(model.config, model.tensors); // its heads are always on: what the text would be without the switches
    for (let l = 0; l < model.blocks.length; l++) $("layer").append(make("option", `${l + 1}`, { value: l }));
    const { n_layer, n_head, block_size } = model.config;
    if (n_layer * n_head * block_size ** 2 < 3e7) $("layer").append(make("option", "all", { value: "all" })); // so many pixels
    $("layer").value = model.config.n_layer - 1;
    $("prompt").value = prompt;
    for (const id of ["temperature", "topK", "topP", "minP"])
      $(id).addEventListener("input", () => { this.showKnobs(); this.showBars(); });
    $("prompt").addEventListener("input", () => { this.stop(); this.restart(); });
    $("seed").addEventListener("input", () => { this.random = makeRandom(Number($("seed").value)); });
    $("step").addEventListener("click", () => { this.stop(); this.write(); });
    $("go").addEventListener("click", () => (this.writing ? this.stop() : this.start()));
    $("restart").addEventListener("click", () => { this.stop(); this.restart(); });
    $("layer").addEventListener("input", () => this.showHeads());
    $("all-on").addEventListener("click", () => { this.model.off.clear(); this.readAgain(); });
    // the maps are pixels: they are drawn again in the other theme's colour
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.showHeads());
    new MutationObserver(() => this.showHeads()).observe(document.documentElement, { attributeFilter: ["class"] });
    this.showKnobs();
    this.restart();
  }

  get knobs() {
    return Object.fromEntries(["temperature", "topK", "topP", "minP"].map((id) => [id, Number($(id).value)]));
  }

  showKnobs() {
    for (const [id, value] of Object.entries(this.knobs)) $(id).parentElement.querySelector("output").textContent = value;
  }

  complain(error) { $("problem").textContent = error.message; $("problem").hidden = !error.message; }

  restart() { // read the prompt
    this.random = makeRandom(Number($("seed").value));
    try {
      let ids = this.tokenizer.encode($("prompt").value);
      const most = Math.max(1, this.model.config.block_size - 1), cut = ids.length > most;
      if (cut) ids = ids.slice(-most);
      if (!ids.length) ids = [this.tokenizer.stopIds.values().next().value ?? 0]; // as at the start of a text
      this.follow(this.model, ids);
      this.begun = this.model.ids.length;
      this.chosen = this.begun - 1;
      this.complain({ message: cut ? `Only the last ${most} tokens are read: the model's context is ${most + 1}.` : "" });
    } catch (error) {
      this.complain(error);
    }
    this.show();
  }

  follow(model, ids) { // read these tokens, and keep what is read already
    const same = ids.findIndex((id, i) => model.ids[i] !== id);
    model.forget(same < 0 ? ids.length : same);
    for (const id of ids.slice(model.ids.length)) model.step(id);
  }

  readAgain() { // after heads were switched
    this.stop();
    const ids = this.model.ids;
    this.model.forget();
    this.follow(this.model, ids);
    this.show();
  }

  switchHead(key, on) {
    if (on) this.model.off.delete(key); else this.model.off.add(key);
    this.readAgain();
  }

  write() { // one token more; false at the end
    if (this.model.ids.length >= this.model.config.block_size) { this.complain({ message: "The model's context is full; go back to the beginning." }); return false; }
    const id = draw(chances(this.model.seen.at(-1).logits, this.knobs), this.random);
    this.model.step(id);
    this.chosen = this.model.ids.length - 1;
    if (!this.writing) this.show();
    return !this.tokenizer.stopIds.has(id);
  }

  start() {
    this.writing = true;
    $("go").textContent = "Stop";
    const began = performance.now(), before = this.model.ids.length;
    const turn = () => {
      const until = performance.now() + 30;
      let more = true;
      while (this.writing && more && performance.now() < until) more = this.write();
      this.showText();
      this.showBars();
      const count = this.model.ids.length - before, seconds = (performance.now() - began) / 1000;
      $("speed").textContent = count ? `${count} tokens, ${Math.round(count / seconds)} a second` : "";
      if (this.writing && more && count < 400) setTimeout(turn); else { this.stop(); this.show(); }
    };
    turn();
  }

  stop() { this.writing = false; $("go").textContent = "Write"; }

  show() { this.showText(); this.showBars(); this.showTokens(); this.showLens(); this.showHeads(); }

  showText() {
    const { ids } = this.model;
    $("text").replaceChildren(document.createTextNode(this.tokenizer.decode(ids.slice(0, this.begun))), make("b", this.tokenizer.decode(ids.slice(this.begun))));
  }

  showBars() {
    const seen = this.model.seen[this.chosen];
    if (!seen) return $("bars").replaceChildren();
    const percent = (chance) => `${(100 * chance).toFixed(1)}%`;
    let before = null; // the chances with every head on, where one is off
    if (this.model.off.size && !this.writing) {
      this.follow(this.whole, this.model.ids);
      before = new Map(chances(this.whole.seen[this.chosen].logits, this.knobs).map(({ id, chance }) => [id, chance]));
    }
    const list = chances(seen.logits, this.knobs);
    $("likely").textContent = `after “${this.name(this.model.ids[this.chosen])}”: ${list.length === 1 ? "one token is left" : `${list.length.toLocaleString("en")} tokens are possible, the likeliest are`}`;
    $("bars").replaceChildren(...list.slice(0, 10).map(({ id, chance }) => {
      const line = make("li"), bar = make("span", "", { class: "bar" }), track = make("span", "", { class: "track" });
      bar.style.width = percent(chance);
      track.append(bar);
      line.append(make("code", this.name(id)), track, make("span", percent(chance)));
      if (before) {
        const mark = make("span", "", { class: "mark" });
        mark.style.left = percent(before.get(id) ?? 0);
        track.append(mark);
        line.append(make("span", `was ${percent(before.get(id) ?? 0)}`, { class: "note" }));
      }
      return line;
    }));
    $("changed").textContent = !before ? "" : this.model.ids.length < 2 ? "The line in a bar is its length with all heads on." :
      `The line in a bar is its length with all heads on. This text surprises the model by ${surprise(this.model).toFixed(2)} bits a token now; with all heads on, by ${surprise(this.whole).toFixed(2)}.`;
  }

  name(id) { return visible(this.tokenizer.decode([id])); }

  showTokens() {
    const { ids, seen } = this.model;
    if (!seen.length) return;
    // the token that follows, or the likeliest one
    const next = ids[this.chosen + 1] ?? chances(seen[this.chosen].logits)[0].id;
    const given = attribute(this.model, this.chosen, next), most = Math.max(...given.tokens.map(Math.abs), 1e-6);
    const signed = (value) => `${value >= 0 ? "+" : "−"}${Math.abs(value).toFixed(2)}`;
    const strongest = (parts) => parts.sort((a, b) => Math.abs(b.value) - Math.abs(a.value));
    const lines = (parts) => parts.map(({ label, value }) => make("li", `${label}: ${signed(value)}`));
    $("tokens").replaceChildren(...ids.map((id, i) => {
      const button = make("button", this.name(id), { type: "button", class: "token", "aria-pressed": i === this.chosen });
      if (i <= this.chosen) {
        button.style.background = `rgba(var(--pg-${given.tokens[i] > 0 ? "for" : "against"}), ${(0.45 * Math.abs(given.tokens[i])) / most})`;
        button.title = `gave ${signed(given.tokens[i])}`;
      }
      button.addEventListener("click", () => {
        this.stop();
        this.chosen = i;
        this.show();
        $("tokens").children[i].focus();
      });
      return button;
    }));
    $("score").textContent = `Score of “${this.name(next)}” after this token: ${seen[this.chosen].logits[next].toFixed(2)}. It is the sum of:`;
    const part = (label, value) => ({ label, value });
    const headsGave = given.heads.reduce((sum, { score }) => sum + score, 0);
    const parts = strongest([part("the token’s own vector", given.embedding), ...given.forward.map((v, l) => part(`feed-forward ${l + 1}`, v)),
      ...given.heads.map(({ layer, head, score }) => part(`layer ${layer + 1}, head ${head + 1}`, score)), part("biases", given.biases)]);
    const rest = parts.slice(8).reduce((sum, p) => sum + p.value, 0);
    $("sources").replaceChildren(...lines([...parts.slice(0, 8), part("all others", rest)]));
    $("brought").textContent = `All heads together gave ${signed(headsGave)}. They brought it from:`;
    const places = strongest(Array.from(given.tokens, (value, i) => part(`“${this.name(ids[i])}” (token ${i + 1})`, value)));
    const others = places.slice(8).reduce((sum, p) => sum + p.value, 0);
    $("places").replaceChildren(...lines(places.length > 8 ? [...places.slice(0, 8), part("all others", others)] : places));
  }

  showLens() {
    const seen = this.model.seen[this.chosen];
    if (!seen) return;
    const table = make("table");
    logitLens(this.model, this.chosen).forEach((list, stage) => {
      const row = make("tr");
      row.append(make("th", stage ? `after layer ${stage}` : "before", { scope: "row" }));
      for (const { id, chance } of list.slice(0, 4)) {
        const cell = make("td");
        cell.append(make("code", this.name(id)), ` ${Math.round(100 * chance)}%`);
        row.append(cell);
      }
      table.append(row);
    });
    $("lens").replaceChildren(table);
  }

  showHeads() {
    const { seen, config, off } = this.model, which = $("layer").value;
    if (!seen.length) return;
    const layers = which === "all" ? [...seen[0].weights.keys()] : [Number(which)];
    $("heads").classList.toggle("many", layers.length > 1);
    $("heads").replaceChildren(...layers.flatMap((layer) => Array.from({ length: config.n_head }, (_, head) => this.headMap(layer, head))));
    const names = [...off].map((key) => key.split(".").map((n) => Number(n) + 1)).map(([layer, head]) => `layer ${layer} head ${head}`);
    $("off").textContent = off.size ? `${off.size} off: ${names.join(", ")}` : "";
  }

  headMap(layer, head) { // rows look at columns; the darker, the more
    const { seen, ids, off } = this.model, T = seen.length, key = `${layer}.${head}`;
    const ink = getComputedStyle($("playground")).getPropertyValue("--pg-for").split(",").map(Number);
    const canvas = make("canvas", "", { width: T, height: T, role: "img", "aria-label": `attention of head ${head + 1} in layer ${layer + 1}: rows look at columns` });
    const paint = canvas.getContext("2d"), picture = paint.createImageData(T, T);
    seen.forEach(({ weights }, i) => {
      for (let j = 0, at = 4 * i * T; j <= i; j++, at += 4) {
        [picture.data[at], picture.data[at + 1], picture.data[at + 2]] = ink;
        picture.data[at + 3] = 255 * Math.sqrt(weights[layer][head][j]);
      }
    });
    paint.putImageData(picture, 0, 0);
    const looks = Array.from(seen[this.chosen].weights[layer][head], (share, j) => ({ share, j })).sort((a, b) => b.share - a.share).slice(0, 3)
      .map(({ share, j }) => `${this.name(ids[j])} ${Math.round(100 * share)}%`).join(", ");
    const box = make("input", "", { type: "checkbox", id: `head-${key}` }), label = make("label"), caption = make("figcaption"), figure = make("figure");
    box.checked = !off.has(key);
    box.addEventListener("input", () => {
      this.switchHead(key, box.checked);
      $(`head-${key}`).focus();
    });
    label.append(box, $("layer").value === "all" ? `layer ${layer + 1}, head ${head + 1}` : `head ${head + 1}`);
    caption.append(label, make("span", `looks at: ${looks}`, { class: "looks" }));
    figure.append(canvas, caption);
    return figure;
  }
}

function begin() {
  try {
    if (typeof GPTBOOK_MODEL === "undefined") throw new Error("model.js is missing or damaged; export the model again");
    const { model, tokenizer } = openModel(GPTBOOK_MODEL);
    const count = Object.values(model.tensors).reduce((sum, t) => sum + t.numbers.length, 0);
    $("about").textContent += ` It has ${count.toLocaleString("en")} parameters in ${model.config.n_layer} layers of ${model.config.n_head} heads, and reads ${model.config.block_size} tokens.`;
    $("playground").hidden = false;
    window.playground = new Playground(model, tokenizer, GPTBOOK_MODEL.prompt ?? "");
  } catch (error) {
    $("problem").textContent = `This model cannot be shown: ${error.message}.`;
    $("problem").hidden = false;
    $("playground").hidden = true;
  }
}

begin();
