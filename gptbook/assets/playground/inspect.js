// A look inside: chapter 11 of the book, in JavaScript.
"use strict";

// The logit lens: the chances that each stage of the residual stream at a position would give if it were
// the last, before the first layer and after each. The same definition as gptbook.inside.logit_lens.
function logitLens(model, position) {
  return model.seen[position].streams.map((stream) => chances(model.read(stream)));
}

// y = Wᵀ x: a direction of the output, seen from the input.
function multiplyBack({ weight }, x) {
  const [rows, columns] = weight.shape, w = weight.numbers, y = new Float32Array(columns);
  for (let row = 0, at = 0; row < rows; row++)
    for (let i = 0; i < columns; i++, at++) y[i] += w[at] * x[row];
  return y;
}

const dot = (x, y) => { let sum = 0; for (let i = 0; i < x.length; i++) sum += x[i] * y[i]; return sum; };

// Where the score of token `id` at `position` comes from (direct logit attribution). The score is the
// product of the head's row with the last norm's output. The norm divides by one number. With that number
// held fixed, the score is a product of the stream with one direction, and the stream is a sum. So the
// score is the sum of: the token's own embedding; each head of each layer, which is a sum over the tokens
// it looks at, attention weight times value; each feed-forward layer; and the biases.
function attribute(model, position, id) {
  const { config: c, headSize: D, norm } = model, C = c.n_embd, kept = model.seen[position], last = kept.streams.at(-1);
  const row = model.head.weight.numbers.subarray(id * C, (id + 1) * C), gain = norm.weight.numbers;
  const mean = c.norm === "layer" ? last.reduce((sum, v) => sum + v, 0) / C : 0;
  const scale = 1 / Math.sqrt(last.reduce((sum, v) => sum + (v - mean) ** 2, 0) / C + c.norm_eps);
  let direction = row.map((v, i) => gain[i] * v * scale);
  if (c.norm === "layer") { // it takes the mean away, so a direction's mean counts for nothing
    const middle = direction.reduce((sum, v) => sum + v, 0) / C;
    direction = direction.map((v) => v - middle);
  }
  const heads = [], tokens = new Float32Array(position + 1);
  let biases = norm.bias ? dot(norm.bias.numbers, row) : 0;
  model.blocks.forEach(({ out, cache }, layer) => {
    const back = multiplyBack(out, direction);
    if (out.bias) biases += dot(out.bias.numbers, direction);
    for (let head = 0; head < c.n_head; head++) {
      const shared = Math.floor(head / (c.n_head / model.kvHeads)) * D, given = new Float32Array(position + 1);
      if (!model.off.has(`${layer}.${head}`))
        for (let j = 0; j <= position; j++) {
          let part = 0;
          for (let i = 0; i < D; i++) part += back[head * D + i] * cache.values[j * cache.width + shared + i];
          given[j] = part * kept.weights[layer][head][j];
          tokens[j] += given[j];
        }
      heads.push({ layer, head, score: given.reduce((sum, v) => sum + v, 0), tokens: given });
    }
  });
  return { embedding: dot(kept.streams[0], direction), heads, forward: kept.forward.map((v) => dot(v, direction)), tokens, biases };
}

// Mean surprise of the tokens that the model has read, in bits a token; the first one is given.
function surprise(model) {
  let bits = 0;
  for (let i = 1; i < model.ids.length; i++) {
    const { logits } = model.seen[i - 1];
    const top = logits.reduce((a, b) => Math.max(a, b), -Infinity), sum = logits.reduce((s, v) => s + Math.exp(v - top), 0);
    bits += (Math.log(sum) + top - logits[model.ids[i]]) / Math.LN2;
  }
  return model.ids.length > 1 ? bits / (model.ids.length - 1) : NaN;
}
