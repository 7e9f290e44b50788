// From scores to the next token: chapter 09 of the book, in JavaScript.
"use strict";

function makeRandom(seed) { // numbers from 0 to 1, the same for the same seed (mulberry32)
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

// The chance of every token after temperature and cuts, most likely first: [{id, chance}].
function chances(logits, { temperature = 1, topK = 0, topP = 1, minP = 0 } = {}) {
  const order = Array.from(logits.keys()).sort((a, b) => logits[b] - logits[a] || a - b);
  if (temperature === 0 || topK === 1) return [{ id: order[0], chance: 1 }];
  let kept = order.slice(0, topK > 0 ? topK : order.length).map((id) => ({ id, chance: Math.exp((logits[id] - logits[order[0]]) / temperature) }));
  const share = (list) => { const sum = list.reduce((s, t) => s + t.chance, 0); for (const t of list) t.chance /= sum; return list; };
  share(kept);
  if (topP < 1) { // the fewest that hold so much
    let before = 0;
    kept = share(kept.filter((t) => { const keep = before < topP; before += t.chance; return keep; }));
  }
  if (minP > 0) kept = share(kept.filter((t) => t.chance >= minP * kept[0].chance));
  return kept;
}

function draw(list, random) {
  let left = random();
  for (const { id, chance } of list) if ((left -= chance) < 0) return id;
  return list.at(-1).id;
}
