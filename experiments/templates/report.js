"use strict";
(() => {
  const at = (id) => document.getElementById(id);
  const prompts = JSON.parse(at("data").textContent);
  let prompt, memory, bits, counts, chosen = 0, pointer = [];

  const unpack = async (packed) => {
    const raw = Uint8Array.from(atob(packed), (c) => c.charCodeAt(0));
    const stream = new Blob([raw]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  };
  const kept = (layer, head, token) => {
    const row = (layer * prompt.shape[1] + head) * Math.ceil(prompt.tokens.length / 8);
    return (bits[row + (token >> 3)] >> (token & 7)) & 1;
  };
  const span = (id, size) => (at(id).value === "" ? [...Array(size).keys()] : [Number(at(id).value)]);
  const fill = (id, names, all) => {
    const old = at(id).value;
    const options = names.map((name, i) => new Option(name, i));
    at(id).replaceChildren(...(all ? [new Option(all, "")] : []), ...options);
    if ([...at(id).options].some((option) => option.value === old)) at(id).value = old;
  };
  const numbers = (size) => [...Array(size).keys()].map(String);
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name);

  function showPrompt() {
    prompt = prompts[at("prompt").value];
    chosen = prompt.marks.length ? prompt.marks[0][0] : 0;
    fill("memory", prompt.memories.map((m) => m.name));
    fill("layer", numbers(prompt.shape[0]), "all layers");
    fill("head", numbers(prompt.shape[1]), "all heads");
    const spans = prompt.tokens.map((token) => {
      const element = document.createElement("span");
      element.textContent = token.replaceAll("\n", "\u23ce\n");
      return element;
    });
    for (const [begin, end] of prompt.marks) spans.slice(begin, end).forEach((s) => s.classList.add("answer"));
    at("tokens").replaceChildren(...spans);
    return showMemory();
  }

  async function showMemory() {
    const wanted = (memory = prompt.memories[at("memory").value]);
    const [found, over] = await Promise.all([unpack(wanted.bits), wanted.over && unpack(wanted.over)]);
    if (memory !== wanted) return; // another choice came in between
    bits = found;
    counts = over && new Uint32Array(over.buffer);
    const share = (100 * memory.kept).toFixed(1);
    at("answer").textContent =
      `Question: ${prompt.question.trim()}\nExpected: ${prompt.answers.join(", ")}\n` +
      `${memory.name} (${share}% kept): ${memory.answer.trim()} (score ${memory.score.toFixed(2)})`;
    paint();
  }

  function paint() {
    const layers = span("layer", prompt.shape[0]), heads = span("head", prompt.shape[1]);
    const spans = at("tokens").children;
    const sums = new Uint32Array(spans.length);
    for (const layer of layers)
      for (const head of heads) sums.forEach((_, token) => (sums[token] += kept(layer, head, token)));
    const most = sums.reduce((a, b) => Math.max(a, b), 1);
    sums.forEach((sum, token) => spans[token].style.setProperty("--k", (sum / most).toFixed(3)));
    const cell = Math.ceil(1200 / spans.length); // sharp when it is stretched over the page
    draw(at("map"), spans.length, layers.length * heads.length, cell, cell, (x, y) =>
      kept(layers[Math.floor(y / heads.length)], heads[y % heads.length], x));
    at("time").hidden = !counts;
    if (counts) paintTimes(layers, heads);
    choose(chosen);
  }

  // After update x: tokens read, and the share of them that the y-th of the chosen heads holds.
  const held = (x, y, layers, heads) => {
    const row = x * (1 + prompt.shape[0] * prompt.shape[1]);
    const head = layers[Math.floor(y / heads.length)] * prompt.shape[1] + heads[y % heads.length];
    return [counts[row], counts[row + 1 + head]];
  };

  function paintTimes(layers, heads) {
    const updates = counts.length / (1 + prompt.shape[0] * prompt.shape[1]);
    draw(at("times"), updates, layers.length * heads.length, 8, 8, (x, y) => {
      const [read, here] = held(x, y, layers, heads);
      return here / read;
    });
    moment(updates - 1, 0);
  }

  function moment(x, y) {
    const layers = span("layer", prompt.shape[0]), heads = span("head", prompt.shape[1]);
    const [read, here] = held(x, y, layers, heads);
    at("moment").textContent =
      `While the context is read (the stronger, the larger the share held): after ${read} tokens, layer ` +
      `${layers[Math.floor(y / heads.length)]}, head ${heads[y % heads.length]} holds ${here}, ` +
      `${((100 * here) / read).toFixed(1)}%`;
  }

  function draw(canvas, width, height, cell, inner, on) {
    canvas.width = width * cell;
    canvas.height = height * cell;
    const context = canvas.getContext("2d");
    context.fillStyle = colour("--accent");
    for (let y = 0; y < height; y++)
      for (let x = 0; x < width; x++) {
        context.globalAlpha = on(x, y);
        if (context.globalAlpha) context.fillRect(x * cell, y * cell, inner, inner);
      }
  }

  function choose(token) {
    const spans = at("tokens").children;
    spans[chosen]?.classList.remove("chosen");
    chosen = Math.max(0, Math.min(token, spans.length - 1));
    spans[chosen].classList.add("chosen");
    const [layers, heads] = prompt.shape;
    let count = 0, some = 0;
    for (let layer = 0; layer < layers; layer++) {
      let here = 0;
      for (let head = 0; head < heads; head++) here += kept(layer, head, chosen);
      count += here;
      some += here > 0;
    }
    at("words").textContent =
      `${JSON.stringify(prompt.tokens[chosen])}, position ${chosen} of ${prompt.tokens.length}: kept by ${count} of ` +
      `${layers * heads} heads, in ${some} of ${layers} layers (below: layers across, heads down)`;
    draw(at("cells"), layers, heads, 10, 9, (x, y) => kept(x, y, chosen));
  }

  const show = (token) => {
    choose(token);
    const box = at("tokens"), element = box.children[chosen];
    box.scrollTop = element.offsetTop - box.offsetTop - box.clientHeight / 2;
  };
  const point = (event) => {
    const [x, y] = pointer;
    pointer = [event.clientX, event.clientY];
    if (event.type === "pointermove" && event.clientX === x && event.clientY === y) return; // the text moved beneath it
    const spans = at("tokens").children;
    if (bits && event.target.parentNode === at("tokens") && event.target !== spans[chosen])
      choose([...spans].indexOf(event.target));
  };
  at("prompt").addEventListener("change", showPrompt);
  at("memory").addEventListener("change", showMemory);
  at("layer").addEventListener("change", paint);
  at("head").addEventListener("change", paint);
  at("tokens").addEventListener("pointermove", point);
  at("tokens").addEventListener("click", point);
  at("tokens").addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    show(chosen + step);
  });
  at("map").addEventListener("click", (event) =>
    show(Math.floor((event.offsetX / at("map").clientWidth) * prompt.tokens.length)));
  at("times").addEventListener("pointermove", (event) => {
    const cell = (offset, size, count) => Math.max(0, Math.min(count - 1, Math.floor((offset / size) * count)));
    const { width, height, clientWidth, clientHeight } = at("times");
    moment(cell(event.offsetX, clientWidth, width / 8), cell(event.offsetY, clientHeight, height / 8));
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
  fill("prompt", prompts.map((p) => p.name));
  showPrompt();
})();
