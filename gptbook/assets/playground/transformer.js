// The forward pass, one token at a time: chapters 02 to 06 of the book, in JavaScript.
// Every class of position, norm and activation that gptbook.GPT has. What is seen is kept.
"use strict";

// ---- weights: the format of safetensors (a length, a header in JSON, numbers one behind the other)

function fromHalf(bits) { // float16
  const sign = bits & 0x8000 ? -1 : 1, exponent = (bits >> 10) & 31, fraction = bits & 1023;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

function readNumbers(bytes, kind) {
  const copy = bytes.slice().buffer; // aligned
  if (kind === "F32") return new Float32Array(copy);
  const halves = new Uint16Array(copy), numbers = new Float32Array(halves.length);
  if (kind === "F16") {
    for (let i = 0; i < halves.length; i++) numbers[i] = fromHalf(halves[i]);
  } else if (kind === "BF16") {
    const bits = new Uint32Array(numbers.buffer);
    for (let i = 0; i < halves.length; i++) bits[i] = halves[i] << 16;
  } else {
    throw new Error(`model.safetensors holds numbers of kind ${kind}; this page reads F32, F16 and BF16`);
  }
  return numbers;
}

function readSafetensors(bytes) { // {name: {shape, numbers}}
  const damaged = (why) => new Error(`model.safetensors is damaged: ${why}; export the model again`);
  if (bytes.length < 8) throw damaged("it is too short");
  const length = Number(new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(0, true));
  if (!(length <= bytes.length - 8)) throw damaged("its header is cut off");
  let header;
  try {
    header = JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + length)));
  } catch {
    throw damaged("its header is no JSON");
  }
  const tensors = {};
  for (const [name, facts] of Object.entries(header)) {
    if (name === "__metadata__") continue;
    const [start, end] = facts.data_offsets, count = facts.shape.reduce((a, b) => a * b, 1);
    const size = facts.dtype === "F32" ? 4 : 2;
    if (!(start >= 0 && end <= bytes.length - 8 - length && end - start === count * size)) throw damaged(`${name} is cut off`);
    tensors[name] = { shape: facts.shape, numbers: readNumbers(bytes.subarray(8 + length + start, 8 + length + end), facts.dtype) };
  }
  return tensors;
}

// ---- the parts

// y = W x + b, for W of shape (rows, columns): where nearly all the time goes.
function multiply(weight, x, bias) {
  const rows = weight.shape[0], columns = weight.shape[1], w = weight.numbers, y = new Float32Array(rows);
  for (let row = 0, at = 0; row < rows; row++) {
    let a = 0, b = 0, c = 0, d = 0, i = 0;
    for (; i + 3 < columns; i += 4, at += 4) {
      a += w[at] * x[i];
      b += w[at + 1] * x[i + 1];
      c += w[at + 2] * x[i + 2];
      d += w[at + 3] * x[i + 3];
    }
    for (; i < columns; i++, at++) a += w[at] * x[i];
    y[row] = a + b + (c + d) + (bias ? bias.numbers[row] : 0);
  }
  return y;
}

// y = Wᵀ x: a direction of the output, seen from the input. Only the attribution needs it.
function multiplyBack(weight, x) {
  const [rows, columns] = weight.shape, w = weight.numbers, y = new Float32Array(columns);
  for (let row = 0, at = 0; row < rows; row++)
    for (let i = 0; i < columns; i++, at++) y[i] += w[at] * x[row];
  return y;
}

const add = (x, y) => x.map((value, i) => value + y[i]);
const dot = (x, y) => { let sum = 0; for (let i = 0; i < x.length; i++) sum += x[i] * y[i]; return sum; };

// Chapter 05: one scale for every token's vector.
function normalise(kind, x, weight, bias, eps) {
  const size = x.length;
  let mean = 0;
  if (kind === "layer") { for (const value of x) mean += value; mean /= size; }
  let squares = 0;
  for (const value of x) squares += (value - mean) ** 2;
  const scale = 1 / Math.sqrt(squares / size + eps);
  return x.map((value, i) => (value - mean) * scale * (weight ? weight.numbers[i] : 1) + (bias ? bias.numbers[i] : 0));
}

const ACTIVATIONS = { // chapter 05
  gelu: (h) => h.map((v) => 0.5 * v * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (v + 0.044715 * v ** 3)))),
  relu2: (h) => h.map((v) => (v > 0 ? v * v : 0)),
  swiglu: (h) => {
    const half = h.length / 2, out = new Float32Array(half);
    for (let i = 0; i < half; i++) out[i] = (h[i] / (1 + Math.exp(-h[i]))) * h[half + i];
    return out;
  },
};

function softmax(scores) {
  let top = -Infinity, sum = 0;
  for (const score of scores) top = Math.max(top, score);
  const shares = new Float32Array(scores.length);
  for (let i = 0; i < scores.length; i++) sum += shares[i] = Math.exp(scores[i] - top);
  for (let i = 0; i < shares.length; i++) shares[i] /= sum;
  return shares;
}

function alibiSlopes(heads) { // chapter 02
  const power = 2 ** Math.floor(Math.log2(heads)), exponents = [];
  for (let i = 0; i < power; i++) exponents.push((8 * (i + 1)) / power);
  for (let i = 0; i < heads - power; i++) exponents.push((8 * (i + 0.5)) / power);
  return exponents.map((exponent) => 2 ** -exponent);
}

// ---- the model

const FLOAT32_EPS = 1.1920929e-7; // PyTorch's rms_norm of queries and keys uses it

class GPT {
  constructor(config, tensors) {
    this.config = config;
    this.tensors = tensors;
    this.headSize = config.n_embd / config.n_head;
    this.kvHeads = config.n_kv_head ?? config.n_head;
    this.off = new Set(); // "layer.head" of heads that are switched off
    this.slopes = config.position === "alibi" ? alibiSlopes(config.n_head) : null;
    if (!ACTIVATIONS[config.activation] || !["rms", "layer"].includes(config.norm)) throw new Error("config.json names a part that this page does not know");
    this.check();
    this.forget();
  }

  get(name) { return this.tensors[name]; }

  check() { // what the configuration declares must be there
    const c = this.config, C = c.n_embd, qkv = (c.n_head + 2 * this.kvHeads) * this.headSize;
    const expected = { "embedding.weight": [c.vocab_size, C], "norm.weight": [C] };
    if (!c.tie_weights) expected["head.weight"] = [c.vocab_size, C];
    if (c.position === "learned") expected["positions.weight"] = [c.block_size, C];
    for (let l = 0; l < c.n_layer; l++) Object.assign(expected, {
      [`blocks.${l}.attention.qkv.weight`]: [qkv, C],
      [`blocks.${l}.attention.out.weight`]: [C, C],
      [`blocks.${l}.attention_norm.weight`]: [C],
      [`blocks.${l}.feed_forward_norm.weight`]: [C],
    });
    for (const [name, shape] of Object.entries(expected)) {
      const found = this.tensors[name]?.shape;
      if (String(found) !== String(shape)) throw new Error(`${name} should have the shape ${shape}, and has ${found ?? "none"}; the files are not of one model`);
    }
  }

  forget(length = 0) { // go back to the first tokens
    this.ids = (this.ids ?? []).slice(0, length);
    this.seen = (this.seen ?? []).slice(0, length); // what happened at each token
  }

  positionVector(position) {
    const c = this.config;
    if (c.position === "learned") return this.get("positions.weight").numbers.subarray(position * c.n_embd, (position + 1) * c.n_embd);
    if (c.position !== "sinusoidal") return null;
    const vector = new Float32Array(c.n_embd);
    for (let i = 0; i < c.n_embd; i += 2) {
      const angle = position * 10000 ** -(i / c.n_embd);
      vector[i] = 0.02 * Math.sin(angle);
      vector[i + 1] = 0.02 * Math.cos(angle);
    }
    return vector;
  }

  turn(heads, position) { // rotary positions, chapter 02
    const D = this.headSize, half = D / 2;
    for (let start = 0; start < heads.length; start += D)
      for (let i = 0; i < half; i++) {
        const angle = position * this.config.rotary_base ** -((2 * i) / D);
        const cos = Math.cos(angle), sin = Math.sin(angle), a = heads[start + i], b = heads[start + half + i];
        heads[start + i] = a * cos - b * sin;
        heads[start + half + i] = b * cos + a * sin;
      }
  }

  attend(layer, x, position, kept) { // chapters 03 and 04
    const { n_head: H, n_embd: C } = this.config, D = this.headSize, kv = this.kvHeads * D, name = `blocks.${layer}.attention`;
    const qkv = multiply(this.get(`${name}.qkv.weight`), x, this.get(`${name}.qkv.bias`));
    const q = qkv.slice(0, C), k = qkv.slice(C, C + kv), v = qkv.slice(C + kv);
    if (this.config.qk_norm)
      for (const heads of [q, k])
        for (let start = 0; start < heads.length; start += D)
          heads.set(normalise("rms", heads.subarray(start, start + D), null, null, FLOAT32_EPS), start);
    if (this.config.position === "rotary") { this.turn(q, position); this.turn(k, position); }
    kept.keys.push(k);
    kept.values.push(v);
    const mixed = new Float32Array(C), weights = [];
    for (let h = 0; h < H; h++) {
      const shared = Math.floor(h / (H / this.kvHeads)) * D, scores = new Float32Array(position + 1);
      for (let j = 0; j <= position; j++) {
        const key = j === position ? k : this.seen[j].keys[layer];
        let score = 0;
        for (let i = 0; i < D; i++) score += q[h * D + i] * key[shared + i];
        scores[j] = score / Math.sqrt(D) - (this.slopes ? this.slopes[h] * (position - j) : 0);
      }
      const shares = softmax(scores);
      weights.push(shares);
      if (this.off.has(`${layer}.${h}`)) continue; // a head that is off adds nothing
      for (let j = 0; j <= position; j++) {
        const value = j === position ? v : this.seen[j].values[layer];
        for (let i = 0; i < D; i++) mixed[h * D + i] += shares[j] * value[shared + i];
      }
    }
    kept.weights.push(weights);
    kept.mixed.push(mixed);
    return multiply(this.get(`${name}.out.weight`), mixed, this.get(`${name}.out.bias`));
  }

  step(id) { // one token more: scores for the next one, (V,)
    const c = this.config, position = this.ids.length;
    if (position >= c.block_size) throw new Error(`the model reads ${c.block_size} tokens at most`);
    if (!(id >= 0 && id < c.vocab_size)) throw new Error(`${id} is not a token of this model`);
    const kept = { keys: [], values: [], weights: [], mixed: [], attention: [], forward: [], streams: [] };
    let x = this.get("embedding.weight").numbers.slice(id * c.n_embd, (id + 1) * c.n_embd);
    const place = this.positionVector(position);
    if (place) x = add(x, place);
    kept.streams.push(x);
    for (let l = 0; l < c.n_layer; l++) {
      const block = `blocks.${l}`;
      const norm = (part, input) => normalise(c.norm, input, this.get(`${block}.${part}_norm.weight`), this.get(`${block}.${part}_norm.bias`), c.norm_eps);
      const moved = this.attend(l, norm("attention", x), position, kept);
      x = add(x, moved);
      const up = multiply(this.get(`${block}.feed_forward.up.weight`), norm("feed_forward", x), this.get(`${block}.feed_forward.up.bias`));
      const worked = multiply(this.get(`${block}.feed_forward.down.weight`), ACTIVATIONS[c.activation](up), this.get(`${block}.feed_forward.down.bias`));
      x = add(x, worked);
      kept.attention.push(moved);
      kept.forward.push(worked);
      kept.streams.push(x);
    }
    kept.logits = this.read(x);
    this.ids.push(id);
    this.seen.push(kept);
    return kept.logits;
  }

  get head() { return this.config.tie_weights ? this.get("embedding.weight") : this.get("head.weight"); }

  // What a stage would predict if it were the last: the logit lens of chapter 11.
  read(stream) {
    return multiply(this.head, normalise(this.config.norm, stream, this.get("norm.weight"), this.get("norm.bias"), this.config.norm_eps));
  }

  // Where a score came from. The last norm divides by one number; with that number fixed, the score
  // of a token is a sum over everything that was added to the stream: the embedding, each head's
  // look at each token, each feed-forward layer, and the biases.
  attribute(position, id) {
    const c = this.config, C = c.n_embd, D = this.headSize, kept = this.seen[position], last = kept.streams.at(-1);
    const row = this.head.numbers.subarray(id * C, (id + 1) * C), gain = this.get("norm.weight").numbers;
    let mean = 0;
    if (c.norm === "layer") { for (const value of last) mean += value; mean /= C; }
    let squares = 0;
    for (const value of last) squares += (value - mean) ** 2;
    const scale = 1 / Math.sqrt(squares / C + c.norm_eps), direction = new Float32Array(C);
    let middle = 0;
    for (let i = 0; i < C; i++) middle += direction[i] = gain[i] * row[i] * scale;
    if (c.norm === "layer") for (let i = 0; i < C; i++) direction[i] -= middle / C; // its mean goes nowhere
    const heads = [], forward = [], tokens = new Float32Array(position + 1);
    let biases = c.norm === "layer" && this.get("norm.bias") ? dot(this.get("norm.bias").numbers, row) : 0;
    for (let l = 0; l < c.n_layer; l++) {
      const back = multiplyBack(this.get(`blocks.${l}.attention.out.weight`), direction);
      const bias = this.get(`blocks.${l}.attention.out.bias`);
      if (bias) biases += dot(bias.numbers, direction);
      for (let h = 0; h < c.n_head; h++) {
        const shared = Math.floor(h / (c.n_head / this.kvHeads)) * D;
        let sum = 0;
        if (!this.off.has(`${l}.${h}`))
          for (let j = 0; j <= position; j++) {
            const value = this.seen[j].values[l];
            let part = 0;
            for (let i = 0; i < D; i++) part += back[h * D + i] * value[shared + i];
            part *= kept.weights[l][h][j];
            tokens[j] += part;
            sum += part;
          }
        heads.push({ layer: l, head: h, score: sum });
      }
      forward.push(dot(kept.forward[l], direction));
    }
    return { embedding: dot(kept.streams[0], direction), heads, forward, tokens, biases };
  }
}
