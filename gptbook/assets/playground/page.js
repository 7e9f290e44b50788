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

function openModel(files) { // the three files that gptbook writes
  const read = (name) => {
    if (typeof files?.[name] !== "string") throw new Error(`model.js lacks ${name}; export the model again`);
    try {
      return decodeBase64(files[name]);
    } catch {
      throw new Error(`model.js is damaged at ${name}; export the model again`);
    }
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
    for (let l = 0; l < model.config.n_layer; l++) $("layer").append(make("option", `${l + 1}`, { value: l }));
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
      const same = ids.findIndex((id, i) => this.model.ids[i] !== id);
      this.model.forget(same < 0 ? Math.min(ids.length, this.model.ids.length) : same);
      for (const id of ids.slice(this.model.ids.length)) this.model.step(id);
      this.begun = this.model.ids.length;
      this.chosen = this.begun - 1;
      this.complain({ message: cut ? `Only the last ${most} tokens are read: the model's context is ${most + 1}.` : "" });
    } catch (error) {
      this.complain(error);
    }
    this.show();
  }

  readAgain() { // after heads were switched
    const ids = this.model.ids;
    this.model.forget();
    for (const id of ids) this.model.step(id);
    this.show();
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
    $("bars").replaceChildren(...chances(seen.logits, this.knobs).slice(0, 10).map(({ id, chance }) => {
      const line = make("li"), bar = make("span", "", { class: "bar" });
      bar.style.width = `${100 * chance}%`;
      const track = make("span");
      track.append(bar);
      line.append(make("code", visible(this.tokenizer.decode([id]))), track, make("span", `${(100 * chance).toFixed(1)}%`));
      return line;
    }));
  }

  showTokens() {
    const { ids, seen } = this.model;
    if (!seen.length) return;
    // the token that follows, or the likeliest one
    const next = ids[this.chosen + 1] ?? chances(seen[this.chosen].logits)[0].id;
    const given = this.model.attribute(this.chosen, next), most = Math.max(...given.tokens.map(Math.abs), 1e-6);
    $("tokens").replaceChildren(...ids.map((id, i) => {
      const button = make("button", visible(this.tokenizer.decode([id])), { type: "button", class: "token", "aria-pressed": i === this.chosen });
      if (i <= this.chosen) button.style.background = `rgba(var(--${given.tokens[i] > 0 ? "for" : "against"}), ${(0.45 * Math.abs(given.tokens[i])) / most})`;
      button.addEventListener("click", () => {
        this.chosen = i;
        this.show();
        $("tokens").children[i].focus();
      });
      return button;
    }));
    const name = visible(this.tokenizer.decode([next])), score = seen[this.chosen].logits[next];
    $("score").textContent = `Score of “${name}” after this token: ${score.toFixed(2)}. It is the sum of:`;
    const part = (label, value) => ({ label, value });
    const parts = [part("the token itself", given.embedding), ...given.forward.map((v, l) => part(`feed-forward ${l + 1}`, v)),
      ...given.heads.map(({ layer, head, score }) => part(`layer ${layer + 1}, head ${head + 1}`, score))];
    if (given.biases) parts.push(part("biases", given.biases));
    parts.sort((a, b) => Math.abs(b.value) - Math.abs(a.value));
    const rest = parts.slice(8).reduce((sum, p) => sum + p.value, 0);
    $("sources").replaceChildren(...[...parts.slice(0, 8), part("all others", rest)].map(({ label, value }) => make("li", `${label}: ${value >= 0 ? "+" : "−"}${Math.abs(value).toFixed(2)}`)));
  }

  showLens() {
    const seen = this.model.seen[this.chosen];
    if (!seen) return;
    const table = make("table");
    seen.streams.forEach((stream, stage) => {
      const row = make("tr");
      row.append(make("th", stage ? `after layer ${stage}` : "before", { scope: "row" }));
      for (const { id, chance } of chances(this.model.read(stream)).slice(0, 4)) {
        const cell = make("td");
        cell.append(make("code", visible(this.tokenizer.decode([id]))), ` ${Math.round(100 * chance)}%`);
        row.append(cell);
      }
      table.append(row);
    });
    $("lens").replaceChildren(table);
  }

  showHeads() {
    const { seen, config, ids, off } = this.model, layer = Number($("layer").value);
    if (!seen.length) return;
    const ink = getComputedStyle(document.documentElement).getPropertyValue("--for").split(",").map(Number);
    $("heads").replaceChildren(...Array.from({ length: config.n_head }, (_, h) => {
      const figure = make("figure"), canvas = make("canvas", "", { width: seen.length, height: seen.length, role: "img" });
      const paint = canvas.getContext("2d"), picture = paint.createImageData(seen.length, seen.length);
      seen.forEach((kept, i) => kept.weights[layer][h].forEach((share, j) => {
        picture.data.set([...ink, 255 * Math.sqrt(share)], 4 * (i * seen.length + j));
      }));
      paint.putImageData(picture, 0, 0);
      const looks = Array.from(seen[this.chosen].weights[layer][h], (share, j) => ({ share, j })).sort((a, b) => b.share - a.share).slice(0, 3)
        .map(({ share, j }) => `${visible(this.tokenizer.decode([ids[j]]))} ${Math.round(100 * share)}%`).join(", ");
      canvas.setAttribute("aria-label", `attention of head ${h + 1} in layer ${layer + 1}: rows look at columns`);
      const box = make("input", "", { type: "checkbox" }), label = make("label"), key = `${layer}.${h}`;
      box.checked = !off.has(key);
      box.addEventListener("input", () => {
        if (box.checked) off.delete(key); else off.add(key);
        this.readAgain();
        $("heads").children[h].querySelector("input").focus();
      });
      label.append(box, `head ${h + 1}`);
      const caption = make("figcaption");
      caption.append(label, make("span", `from the chosen token: ${looks}`));
      figure.append(canvas, caption);
      return figure;
    }));
    $("off").textContent = off.size ? `${off.size} off: ${[...off].map((key) => key.split(".").map((n) => Number(n) + 1).join(".")).join(", ")}` : "";
  }
}

function begin() {
  try {
    if (typeof GPTBOOK_MODEL === "undefined") throw new Error("model.js is missing or damaged; export the model again");
    const { model, tokenizer } = openModel(GPTBOOK_MODEL.files);
    const count = Object.values(model.tensors).reduce((sum, t) => sum + t.numbers.length, 0);
    $("about").textContent += ` It has ${count.toLocaleString("en")} parameters in ${model.config.n_layer} layers of ${model.config.n_head} heads, and reads ${model.config.block_size} tokens.`;
    $("playground").hidden = false;
    window.playground = new Playground(model, tokenizer, GPTBOOK_MODEL.prompt ?? "");
  } catch (error) {
    $("problem").textContent = `This model cannot be shown: ${error.message}.`;
    $("problem").hidden = false;
  }
}

begin();
