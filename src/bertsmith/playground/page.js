// Asks the process that served this page, and nobody else. All text goes in as text, never as markup.
"use strict";

const WAIT = 150; // milliseconds without a key before the model is asked
const by = (id) => document.getElementById(id);
const answerOf = (question) => by(question).querySelector(".answer");
let facts = null;
let asked = 0;
let attention = null;
let chosen = { layer: 0, head: 0, token: 0 };

function element(tag, className, text) {
  const made = document.createElement(tag);
  made.className = className || "";
  if (text !== undefined) made.textContent = text;
  return made;
}

const percent = (share) => (share >= 0.9995 || share < 0.0005 ? (share * 100).toFixed(0) : (share * 100).toFixed(1)) + "\u00a0%";

function guess(word, share) {
  const row = element("div", "guess");
  const bar = element("div", "bar");
  bar.style.width = Math.max(0, Math.min(1, share)) * 100 + "%";
  const name = element("span", "word", word);
  name.dir = "auto";
  name.title = word;
  row.append(bar, name, element("span", "share", percent(share)));
  return row;
}

function group(title, guesses) {
  const block = element("div", "group");
  if (title) block.append(element("h3", "", title));
  for (const [word, share] of guesses) block.append(guess(word, share));
  return block;
}

function groups(titles, rows) {
  const all = element("div", "groups");
  rows.forEach((row, number) => all.append(group(titles[number], row)));
  return all;
}

const note = (text) => (text ? [element("p", "note", text)] : []);

const show = {
  fill(reply) {
    const filled = element("p", "filled", reply.text);
    filled.dir = "auto";
    const titles = reply.masks.map((_, number) => (reply.masks.length > 1 ? `mask ${number + 1}` : ""));
    answerOf("fill").replaceChildren(filled, groups(titles, reply.masks), ...note(reply.note));
  },
  classify(reply) {
    const content = "number" in reply
      ? element("p", "filled", String(Number(reply.number.toPrecision(6))))
      : groups(reply.words || [""], reply.rows);
    answerOf("classify").replaceChildren(content, ...note(reply.note));
  },
  pieces(reply) {
    const all = element("div", "chips");
    let last = null;
    let chips = null;
    for (const each of reply.pieces) {
      if (each.word === null || each.word !== last || chips === null) all.append((chips = element("span", "word-chips")));
      last = each.word;
      const chip = element("span", "chip" + (each.unknown ? " unknown" : each.word === null ? " special" : ""), each.piece);
      chip.title = `id ${each.id}` + (each.unknown ? `, not in the vocabulary: ${each.text}` : "");
      chips.append(chip);
    }
    const unknown = reply.pieces.filter((each) => each.unknown).length;
    const line = `${reply.pieces.length} tokens, special ones included; ${unknown} unknown`
      + (reply.too_long ? `; the model reads ${facts.longest}` : "");
    answerOf("pieces").replaceChildren(all, element("p", "note", line));
  },
  attention(reply) {
    const bytes = Uint8Array.from(atob(reply.weights), (character) => character.charCodeAt(0));
    attention = { ...reply, bytes };
    const [layers, heads, tokens] = reply.shape;
    chosen = { layer: Math.min(chosen.layer, layers - 1), head: Math.min(chosen.head, heads - 1), token: Math.min(chosen.token, tokens - 1) };
    drawHeads(layers, heads);
    drawChosen();
  },
};

function weight(layer, head, from, to) {
  const [, heads, tokens] = attention.shape;
  return attention.bytes[((layer * heads + head) * tokens + from) * tokens + to] / 255;
}

function draw(canvas, layer, head) {
  const tokens = attention.shape[2];
  canvas.width = canvas.height = tokens;
  const context = canvas.getContext("2d");
  const image = context.createImageData(tokens, tokens);
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const [low, high] = dark ? [[20, 23, 27], [108, 171, 255]] : [[255, 255, 255], [11, 98, 214]];
  for (let from = 0; from < tokens; from++) {
    for (let to = 0; to < tokens; to++) {
      const share = Math.sqrt(weight(layer, head, from, to)); // small weights stay visible
      for (let c = 0; c < 3; c++) image.data[(from * tokens + to) * 4 + c] = low[c] + (high[c] - low[c]) * share;
      image.data[(from * tokens + to) * 4 + 3] = 255;
    }
  }
  context.putImageData(image, 0, 0);
}

function drawHeads(layers, heads) {
  const grid = by("heads");
  grid.style.gridTemplateColumns = `auto repeat(${heads}, max-content)`;
  const cells = [element("span", "", "layer")];
  for (let head = 0; head < heads; head++) cells.push(element("span", "", String(head + 1)));
  for (let layer = 0; layer < layers; layer++) {
    cells.push(element("span", "", String(layer + 1)));
    for (let head = 0; head < heads; head++) {
      const button = element("button");
      button.type = "button";
      button.title = `layer ${layer + 1}, head ${head + 1}`;
      button.setAttribute("aria-label", button.title);
      button.dataset.layer = layer;
      button.dataset.head = head;
      const canvas = element("canvas");
      draw(canvas, layer, head);
      button.append(canvas);
      button.addEventListener("click", () => {
        Object.assign(chosen, { layer, head });
        drawChosen();
      });
      cells.push(button);
    }
  }
  grid.replaceChildren(...cells);
}

function drawChosen() {
  const { layer, head, token } = chosen;
  for (const button of by("heads").querySelectorAll("button")) {
    button.setAttribute("aria-pressed", String(Number(button.dataset.layer) === layer && Number(button.dataset.head) === head));
  }
  draw(by("map"), layer, head);
  const most = attention.tokens.map((each, to) => [weight(layer, head, token, to), each]).sort((a, b) => b[0] - a[0]);
  by("chosen").textContent = `Layer ${layer + 1}, head ${head + 1}: “${attention.tokens[token]}” looks at `
    + most.slice(0, 3).map(([share, each]) => `“${each}” (${percent(share)})`).join(", ")
    + (attention.note ? `; ${attention.note}` : "");
  const chips = attention.tokens.map((each, to) => {
    const chip = element("button", "chip" + (to === token ? " looks" : ""), each);
    chip.type = "button";
    const share = weight(layer, head, token, to);
    chip.style.background = `color-mix(in srgb, var(--bar) ${Math.round(Math.sqrt(share) * 100)}%, var(--card))`;
    chip.title = percent(share);
    chip.addEventListener("click", () => {
      chosen.token = to;
      drawChosen();
      by("tokens").children[to].focus();
    });
    return chip;
  });
  by("tokens").replaceChildren(...chips);
}

async function ask(question, number) {
  const complaint = by(question).querySelector(".error");
  const body = JSON.stringify({ text: by("text").value, pair: facts.pair ? by("pair").value : null });
  let reply;
  try {
    const response = await fetch(`/ask/${question}`, { method: "POST", headers: { "Content-Type": "application/json" }, body });
    reply = await response.json();
  } catch {
    reply = { error: "no answer: the playground was stopped, or its terminal says what went wrong" };
  }
  if (number !== asked) return; // more was typed meanwhile
  complaint.textContent = reply.error || "";
  answerOf(question).hidden = Boolean(reply.error);
  if (!reply.error) show[question](reply);
}

async function askAll() {
  const number = ++asked;
  for (const question of facts.can) {
    if (number !== asked) return;
    await ask(question, number);
  }
  if (number === asked) document.body.dataset.asked = String(number);
}

let timer = 0;
function typed() {
  asked++; // what is on its way is late
  clearTimeout(timer);
  timer = setTimeout(askAll, WAIT);
}

async function begin() {
  facts = await (await fetch("/facts")).json();
  by("name").textContent = facts.name;
  document.title = `${facts.name} - Bertsmith playground`;
  by("about").textContent = `${(facts.parameters / 1e6).toFixed(1)} million parameters, ${facts.vocabulary.toLocaleString("en")} pieces, `
    + `reads ${facts.longest.toLocaleString("en")} tokens. What is typed here stays in this process.`;
  for (const question of facts.can) by(question).hidden = false;
  by("pair-block").hidden = !facts.pair;
  if (facts.can.includes("fill")) {
    by("insert").hidden = false;
    by("insert").textContent = `Insert ${facts.mask}`;
    by("text").value = `The ${facts.mask} of the text is here.`;
  } else {
    by("text").value = "The text is here.";
  }
  by("insert").addEventListener("click", () => {
    const box = by("text");
    box.setRangeText(facts.mask, box.selectionStart, box.selectionEnd, "end");
    box.focus();
    typed();
  });
  for (const id of ["text", "pair"]) by(id).addEventListener("input", typed);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    if (attention) show.attention(attention);
  });
  askAll();
}

begin();
