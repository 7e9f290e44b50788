// Text into token ids and back: chapter 01 of the book, in JavaScript.
// It reads the tokenizer.json that gptbook writes: byte-level BPE, or characters.
"use strict";

// GPT-2's split pattern. `\s` is Unicode's white space here, as in the engine that gptbook uses.
const GPT2_SPLIT = String.raw`'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`;

// GPT-2 writes every byte as a visible letter. byteOfLetter turns them back.
function makeByteLetters() {
  const shown = [];
  for (const [first, last] of [[33, 126], [161, 172], [174, 255]])
    for (let byte = first; byte <= last; byte++) shown.push(byte);
  const letterOfByte = new Array(256), byteOfLetter = new Map();
  let next = 256;
  for (let byte = 0; byte < 256; byte++) {
    letterOfByte[byte] = String.fromCodePoint(shown.includes(byte) ? byte : next++);
    byteOfLetter.set(letterOfByte[byte], byte);
  }
  return { letterOfByte, byteOfLetter };
}

// A pattern in Python's notation as a JavaScript one.
function readPattern(pattern) {
  return new RegExp(pattern.replaceAll("\\s", "\\p{White_Space}").replaceAll("\\S", "\\P{White_Space}"), "gu");
}

function findPattern(preTokenizer) {
  const parts = preTokenizer?.type === "Sequence" ? preTokenizer.pretokenizers : [preTokenizer];
  const split = parts.find((part) => part?.type === "Split");
  const level = parts.find((part) => part?.type === "ByteLevel");
  if (split?.pattern?.Regex) return split.pattern.Regex;
  if (level?.use_regex) return GPT2_SPLIT;
  throw new Error("this page reads tokenizers that gptbook wrote; the split of this one is another");
}

class CharacterTokenizer {
  constructor(facts) {
    this.characters = [...facts.characters];
    this.ids = new Map(this.characters.map((character, id) => [character, id]));
    this.size = this.characters.length;
    this.stopIds = new Set();
  }

  encode(text) {
    return [...text].map((character) => {
      if (!this.ids.has(character)) throw new Error(`the model has never seen the character ${JSON.stringify(character)}`);
      return this.ids.get(character);
    });
  }

  decode(ids) {
    return ids.map((id) => this.characters[id] ?? "\uFFFD").join("");
  }
}

class BPETokenizer {
  constructor(facts) {
    const { letterOfByte, byteOfLetter } = makeByteLetters();
    this.letterOfByte = letterOfByte;
    this.pattern = readPattern(findPattern(facts.pre_tokenizer));
    this.idOfToken = new Map(Object.entries(facts.model.vocab));
    this.rankOfPair = new Map(facts.model.merges.map((pair, rank) =>
      [typeof pair === "string" ? pair : pair.join(" "), rank]));
    this.bytesOfId = [];
    for (const [token, id] of this.idOfToken)
      this.bytesOfId[id] = Uint8Array.from([...token], (letter) => byteOfLetter.get(letter) ?? 63);
    this.stopIds = new Set();
    for (const { id, content } of facts.added_tokens ?? []) {
      this.bytesOfId[id] = new TextEncoder().encode(content);
      this.stopIds.add(id);
    }
    this.size = this.bytesOfId.length;
    this.known = new Map(); // pieces that were merged before
  }

  // One piece: join the pair that was learnt first, again and again.
  mergePiece(piece) {
    if (this.known.has(piece)) return this.known.get(piece);
    let parts = Array.from(new TextEncoder().encode(piece), (byte) => this.letterOfByte[byte]);
    while (parts.length > 1) {
      let best = Infinity, place = -1;
      for (let i = 0; i + 1 < parts.length; i++) {
        const rank = this.rankOfPair.get(`${parts[i]} ${parts[i + 1]}`);
        if (rank !== undefined && rank < best) [best, place] = [rank, i];
      }
      if (place < 0) break;
      parts.splice(place, 2, parts[place] + parts[place + 1]);
    }
    const ids = parts.map((part) => this.idOfToken.get(part));
    if (ids.includes(undefined)) throw new Error("the tokenizer has no token for a byte of this text");
    this.known.set(piece, ids);
    return ids;
  }

  // What a user types is text: a mark such as <|endoftext|> is spelt out like any other word.
  encode(text) {
    return (text.match(this.pattern) ?? []).flatMap((piece) => this.mergePiece(piece));
  }

  decode(ids) {
    const bytes = ids.map((id) => this.bytesOfId[id] ?? new Uint8Array());
    const all = new Uint8Array(bytes.reduce((sum, part) => sum + part.length, 0));
    let place = 0;
    for (const part of bytes) { all.set(part, place); place += part.length; }
    return new TextDecoder().decode(all);
  }
}

function makeTokenizer(facts) {
  if (facts.gptbook === "CharTokenizer") return new CharacterTokenizer(facts);
  if (facts.model?.type === "BPE" && facts.model.vocab && Array.isArray(facts.model.merges)) return new BPETokenizer(facts);
  throw new Error("tokenizer.json is not one that this page can read");
}
