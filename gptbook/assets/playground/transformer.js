// The forward pass, one token at a time: chapters 02 to 06 of the book, in JavaScript.
// It has every position, norm and activation that gptbook.GPT has. What happens at a token is kept,
// so that inspect.js can look at it.
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
  } else { // BF16: the upper half of a float32
    const bits = new Uint32Array(numbers.buffer);
    for (let i = 0; i < halves.length; i++) bits[i] = halves[i] << 16;
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
    const size = { F32: 4, F16: 2, BF16: 2 }[facts.dtype];
    if (!size) throw new Error(`model.safetensors holds numbers of kind ${facts.dtype}; this page reads F32, F16 and BF16`);
    if (!(start >= 0 && end <= bytes.length - 8 - length && end - start === count * size)) throw damaged(`${name} is cut off`);
    tensors[name] = { shape: facts.shape, numbers: readNumbers(bytes.subarray(8 + length + start, 8 + length + end), facts.dtype) };
  }
  return tensors;
}

// ---- the parts

// y = W x + b, for W of shape (rows, columns), four rows at a time: where nearly all the time goes.
function multiply({ weight, bias }, x) {
  const [rows, columns] = weight.shape, w = weight.numbers, y = new Float32Array(rows);
  let row = 0;
  for (; row + 3 < rows; row += 4) {
    const first = row * columns, second = first + columns, third = second + columns, fourth = third + columns;
    let a = 0, b = 0, c = 0, d = 0;
    for (let i = 0; i < columns; i++) {
      const value = x[i];
      a += w[first + i] * value;
      b += w[second + i] * value;
      c += w[third + i] * value;
      d += w[fourth + i] * value;
    }
    y[row] = a; y[row + 1] = b; y[row + 2] = c; y[row + 3] = d;
  }
  for (; row < rows; row++) {
    let sum = 0;
    for (let i = 0; i < columns; i++) sum += w[row * columns + i] * x[i];
    y[row] = sum;
  }
  if (bias) for (let i = 0; i < rows; i++) y[i] += bias.numbers[i];
  return y;
}

function add(x, y) {
  const sum = new Float32Array(x.length);
  for (let i = 0; i < x.length; i++) sum[i] = x[i] + y[i];
  return sum;
}

// Chapter 05: one scale for every token's vector.
function normalise(kind, { weight, bias }, x, eps) {
  const size = x.length, y = new Float32Array(size);
  let mean = 0, squares = 0;
  if (kind === "layer") { for (let i = 0; i < size; i++) mean += x[i]; mean /= size; }
  for (let i = 0; i < size; i++) squares += (x[i] - mean) * (x[i] - mean);
  const scale = 1 / Math.sqrt(squares / size + eps), gain = weight.numbers;
  for (let i = 0; i < size; i++) y[i] = (x[i] - mean) * scale * gain[i];
  if (bias) for (let i = 0; i < size; i++) y[i] += bias.numbers[i];
  return y;
}

const ACTIVATIONS = { // chapter 05
  gelu(h) {
    for (let i = 0; i < h.length; i++) h[i] *= 0.5 * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (h[i] + 0.044715 * h[i] * h[i] * h[i])));
    return h;
  },
  relu2(h) {
    for (let i = 0; i < h.length; i++) h[i] = h[i] > 0 ? h[i] * h[i] : 0;
    return h;
  },
  swiglu(h) {
    const half = h.length / 2, out = new Float32Array(half);
    for (let i = 0; i < half; i++) out[i] = (h[i] / (1 + Math.exp(-h[i]))) * h[half + i];
    return out;
  },
};

function softmax(scores) { // in place
  let top = -Infinity, sum = 0;
  for (let i = 0; i < scores.length; i++) if (scores[i] > top) top = scores[i];
  for (let i = 0; i < scores.length; i++) sum += scores[i] = Math.exp(scores[i] - top);
  for (let i = 0; i < scores.length; i++) scores[i] /= sum;
  return scores;
}

function alibiSlopes(heads) { // chapter 02
  const power = 2 ** Math.floor(Math.log2(heads)), exponents = [];
  for (let i = 0; i < power; i++) exponents.push((8 * (i + 1)) / power);
  for (let i = 0; i < heads - power; i++) exponents.push((8 * (i + 0.5)) / power);
  return exponents.map((exponent) => 2 ** -exponent);
}

// Every head's part of a vector to length √D, in place: the qk_norm of chapter 04.
function normaliseHeads(x, start, end, D) {
  const eps = 1.1920929e-7; // what PyTorch's rms_norm adds in float32
  for (; start < end; start += D) {
    let squares = 0;
    for (let i = start; i < start + D; i++) squares += x[i] * x[i];
    const scale = 1 / Math.sqrt(squares / D + eps);
    for (let i = start; i < start + D; i++) x[i] *= scale;
  }
}

// Keys and values of the tokens so far, one row a token: chapter 04.
class KVCache {
  constructor(width, rows) {
    this.width = width;
    this.keys = new Float32Array(width * rows);
    this.values = new Float32Array(width * rows);
  }

  set(position, keys, values) {
    this.keys.set(keys, position * this.width);
    this.values.set(values, position * this.width);
  }
}

// ---- the model

class GPT {
  constructor(config, tensors) {
    if (!ACTIVATIONS[config.activation] || !["rms", "layer"].includes(config.norm) || !["rotary", "learned", "sinusoidal", "alibi", "none"].includes(config.position))
      throw new Error("config.json names a part that this page does not know");
    this.config = config;
    this.tensors = tensors;
    this.headSize = config.n_embd / config.n_head;
    this.kvHeads = config.n_kv_head ?? config.n_head;
    this.off = new Set(); // "layer.head" of heads that are switched off
    this.slopes = config.position === "alibi" ? alibiSlopes(config.n_head) : null;
    const { vocab_size: V, block_size: T, n_embd: C } = config, gated = config.activation === "swiglu";
    const hidden = config.n_hidden ?? (gated ? Math.ceil(C / 3) * 8 : 4 * C), kv = this.kvHeads * this.headSize;
    this.embedding = this.take("embedding", V, C);
    this.positions = config.position === "learned" ? this.take("positions", T, C) : null;
    this.blocks = Array.from({ length: Math.min(config.n_layer, Object.keys(tensors).length) }, (_, l) => ({
      attentionNorm: this.take(`blocks.${l}.attention_norm`, C),
      qkv: this.take(`blocks.${l}.attention.qkv`, C + 2 * kv, C),
      out: this.take(`blocks.${l}.attention.out`, C, C),
      forwardNorm: this.take(`blocks.${l}.feed_forward_norm`, C),
      up: this.take(`blocks.${l}.feed_forward.up`, gated ? 2 * hidden : hidden, C),
      down: this.take(`blocks.${l}.feed_forward.down`, C, hidden),
      cache: new KVCache(kv, T),
    }));
    this.norm = this.take("norm", C);
    this.head = config.tie_weights ? this.embedding : this.take("head", V, C);
    this.forget();
  }

  take(name, ...shape) { // weight and bias of a part, whose weight has this shape
    const weight = this.tensors[`${name}.weight`], bias = this.tensors[`${name}.bias`];
    const wrong = (part, wanted, found) => new Error(`${name}.${part} should have the shape ${wanted}, and has ${found ?? "none"}; the files are not of one model`);
    if (String(weight?.shape) !== String(shape)) throw wrong("weight", shape, weight?.shape);
    if (bias && String(bias.shape) !== String(shape[0])) throw wrong("bias", shape[0], bias.shape);
    return { weight, bias };
  }

  forget(length = 0) { // go back to the first tokens
    this.ids = (this.ids ?? []).slice(0, length);
    this.seen = (this.seen ?? []).slice(0, length); // what happened at each token
  }

  place(x, position) { // chapter 02: a vector for the position, where the model adds one
    const { position: kind, n_embd: C } = this.config;
    if (kind === "learned") return add(x, this.positions.weight.numbers.subarray(position * C, (position + 1) * C));
    if (kind === "sinusoidal")
      for (let i = 0; i < C; i += 2) {
        const angle = position * 10000 ** -(i / C);
        x[i] += 0.02 * Math.sin(angle);
        x[i + 1] += 0.02 * Math.cos(angle);
      }
    return x;
  }

  angles(position) { // chapter 02: cosines and sines of the rotary angles
    const half = this.headSize / 2, base = this.config.rotary_base;
    const turns = Array.from({ length: half }, (_, i) => position * base ** -(i / half));
    return { cos: Float64Array.from(turns, Math.cos), sin: Float64Array.from(turns, Math.sin) };
  }

  turn(x, start, end, { cos, sin }) { // channel i of a head together with channel i + D/2
    const D = this.headSize, half = D / 2;
    for (; start < end; start += D)
      for (let i = 0; i < half; i++) {
        const a = x[start + i], b = x[start + half + i];
        x[start + i] = a * cos[i] - b * sin[i];
        x[start + half + i] = b * cos[i] + a * sin[i];
      }
  }

  attend(layer, x, position, rotary) { // chapters 03 and 04: what moves here from the tokens before
    const { n_head: H, n_embd: C, qk_norm } = this.config, D = this.headSize;
    const { qkv, out, cache } = this.blocks[layer], kv = cache.width, { keys, values } = cache;
    const q = multiply(qkv, x), mixed = new Float32Array(C), weights = []; // queries, then keys, then values
    if (qk_norm) normaliseHeads(q, 0, C + kv, D);
    if (rotary) this.turn(q, 0, C + kv, rotary);
    cache.set(position, q.subarray(C, C + kv), q.subarray(C + kv));
    for (let h = 0; h < H; h++) {
      const mine = h * D, shared = Math.floor(h / (H / this.kvHeads)) * D, scores = new Float32Array(position + 1);
      for (let j = 0; j <= position; j++) { // the causal mask: no j after this position
        let score = 0;
        for (let i = 0, at = j * kv + shared; i < D; i++) score += q[mine + i] * keys[at + i];
        scores[j] = score / Math.sqrt(D) - (this.slopes ? this.slopes[h] * (position - j) : 0);
      }
      weights.push(softmax(scores));
      if (this.off.has(`${layer}.${h}`)) continue; // a head that is off adds nothing
      for (let j = 0; j <= position; j++)
        for (let i = 0, at = j * kv + shared, share = scores[j]; i < D; i++) mixed[mine + i] += share * values[at + i];
    }
    return { moved: multiply(out, mixed), weights };
  }

  step(id) { // one token more: scores for the next one, (V,)
    const c = this.config, C = c.n_embd, position = this.ids.length;
    if (position >= c.block_size) throw new Error(`the model reads ${c.block_size} tokens at most`);
    if (!(id >= 0 && id < c.vocab_size)) throw new Error(`${id} is not a token of this model`);
    const kept = { weights: [], forward: [], streams: [] }; // for inspect.js
    let x = this.place(this.embedding.weight.numbers.slice(id * C, (id + 1) * C), position);
    kept.streams.push(x);
    const rotary = c.position === "rotary" ? this.angles(position) : null;
    this.blocks.forEach((block, layer) => { // chapter 05: each part reads the stream, and adds to it
      const { moved, weights } = this.attend(layer, normalise(c.norm, block.attentionNorm, x, c.norm_eps), position, rotary);
      x = add(x, moved);
      const worked = multiply(block.down, ACTIVATIONS[c.activation](multiply(block.up, normalise(c.norm, block.forwardNorm, x, c.norm_eps))));
      x = add(x, worked);
      kept.weights.push(weights);
      kept.forward.push(worked);
      kept.streams.push(x);
    });
    kept.logits = this.read(x);
    this.ids.push(id);
    this.seen.push(kept);
    return kept.logits;
  }

  read(stream) { // chapter 06: the last norm, and the head
    return multiply({ weight: this.head.weight }, normalise(this.config.norm, this.norm, stream, this.config.norm_eps));
  }
}
