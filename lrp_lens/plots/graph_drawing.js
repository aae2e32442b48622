// The picture: layers upwards, tokens across, fitted into the window; it shows what it is told to and lights up a choice.
const LETTER = 6.4, SPACED = 12.5;
const span = (word) => Array.from(word).reduce((sum, one) => sum + (one.codePointAt(0) > 0x2e80 ? 11 : LETTER), 0);

// Of labels at these places, in this order of importance, those that keep their distance.
const spaced = (order, place) => {
  const kept = [];
  for (const one of order) if (kept.every((other) => Math.abs(place(other) - place(one)) >= SPACED)) kept.push(one);
  return new Set(kept);
};

const make = (tag, attributes, parent, text) => {
  const one = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const name in attributes) one.setAttribute(name, attributes[name]);
  if (text !== undefined) one.textContent = text;
  parent.append(one);
  return one;
};

const makeDrawing = (root, model) => {
  const {data, rows, above, source, target, value, key, at, from, to} = model;
  const box = root.querySelector(".lrp-scroll");
  const axis = make("svg", {class: "lrp-axis", "aria-hidden": "true"}, box);
  const about = "Attribution graph: layers upwards, tokens across. Arrow keys walk from dot to dot, Escape lets go.";
  const svg = make("svg", {class: "lrp-picture", tabindex: 0, role: "application", "aria-label": about}, box);
  const [grid, edgeLayer, routeLayer, nodeLayer, marks] = Array.from({length: 5}, () => make("g", {}, svg));
  const lines = [], circles = new Map(), goals = new Map();
  for (let e = 0; e < model.count; e++) {
    const stay = source[e] === target[e];
    const size = Math.sqrt(Math.min(1, Math.abs(value[e]) / data.edgeMax));
    lines.push(make("path", {
      class: `edge ${model.kind(value[e], model.isSpecial(e))} off`, "data-edge": e,
      "stroke-width": (stay ? 0.5 + 1.5 * size : 0.6 + 5 * size).toFixed(2),
      opacity: (stay ? 0.15 + 0.25 * size : 0.3 + 0.6 * size).toFixed(2),
    }, edgeLayer));
  }
  const ensure = (node) => {
    if (!circles.has(node)) {
      const kind = model.kind(model.relevance(node), model.special.has(at(node)[1]));
      circles.set(node, make("circle", {class: `node ${kind} off`, "data-node": node}, nodeLayer));
    }
    return circles.get(node);
  };
  for (const node of [...model.into.keys(), ...model.out.keys(), ...model.targets]) ensure(node);
  for (const node of model.targets) goals.set(node, make("circle", {class: "goal"}, marks));
  const ring = make("circle", {class: "ring off"}, marks);

  let columns = [], place = new Map(), row = 0, cell = 0, most = 0, shown = [], lit = {}, top = 14;
  const x = (position) => place.get(position), y = (boundary) => top + (rows - 1 - boundary) * row;

  // Where everything lies: `columns` are positions, `important` the ones to label first.
  const layout = (wanted, important, zoom) => {
    columns = wanted;
    const some = columns.length < model.width;
    const ticks = new Map(columns.map((p) => [p, clipped(data.tokens[p], 13) + (some ? ` ${p}` : "")]));
    const names = data.boundaries.map((name) => clipped(name, 14));
    const gutter = 14 + Math.max(...names.map(span)), longest = Math.max(0, ...[...ticks.values()].map(span));
    const room = Math.max(160, box.clientWidth - gutter - 2);
    const upright = room / columns.length < 26;
    const leaning = (cellWidth) => upright ? 0 : Math.max(0, ...columns.map((p, i) => 0.53 * span(ticks.get(p)) - (i + 0.5) * cellWidth));
    let pad = 4;
    for (let i = 0; i < 3; i++) { // the slant's overhang and the columns' width depend on each other
      cell = Math.min(84, (room - pad - 12) / columns.length);
      pad = 4 + leaning(cell);
    }
    cell *= zoom;
    pad = 4 + leaning(cell);
    place = new Map(columns.map((p, i) => [p, pad + (i + 0.5) * cell]));
    const footer = 26 + longest * (upright ? 1 : 0.85);
    const offset = box.getBoundingClientRect().top - root.getBoundingClientRect().top;
    const height = Math.max(320, Math.min(innerHeight, 1200) - offset - 14);
    row = zoom * Math.min(72, Math.max(4, (height - top - footer) / (rows - 1)));
    most = Math.max(1.6, Math.min(9, 0.46 * row, 0.46 * cell));
    const whole = pad + columns.length * cell + 12, tall = y(0) + footer;
    axis.replaceChildren();
    grid.replaceChildren();
    for (const [one, w] of [[axis, gutter], [svg, whole]]) {
      one.setAttribute("width", w);
      one.setAttribute("height", tall);
    }
    const order = [rows - 1, 0, ...[...names.keys()].reverse()].sort((a, b) => / mid$/.test(names[a]) - / mid$/.test(names[b]));
    const named = spaced(order, y);
    names.forEach((name, b) => {
      make("line", {class: "rule", x1: 0, x2: whole, y1: y(b), y2: y(b), opacity: named.has(b) ? 1 : 0.35}, grid);
      if (named.has(b)) make("text", {x: gutter - 8, y: y(b) + 4, "text-anchor": "end"}, axis, name);
    });
    const labelled = spaced([...important.filter((p) => place.has(p)), ...columns], x);
    for (const p of columns) {
      if (cell < 5 && !labelled.has(p)) continue;
      make("line", {class: "rule", x1: x(p), x2: x(p), y1: y(rows - 1), y2: y(0), opacity: 0.6}, grid);
      if (!labelled.has(p)) continue;
      const turn = upright ? `translate(${x(p) + 4},${y(0) + 14}) rotate(-90)` : `translate(${x(p) + 4},${y(0) + 16}) rotate(-58)`;
      make("text", {transform: turn, "text-anchor": "end", class: model.special.has(p) ? "tick s" : "tick", "data-tick": p}, grid, ticks.get(p));
    }
    for (const [node, one] of [...circles, ...goals]) {
      const [b, p] = at(node);
      if (!place.has(p)) continue;
      const size = Math.sqrt(Math.min(1, Math.abs(model.relevance(node)) / data.nodeMax));
      one.setAttribute("cx", x(p));
      one.setAttribute("cy", y(b));
      one.setAttribute("r", one.classList.contains("goal") ? most + 3 : (1.4 + (most - 1.4) * size).toFixed(2));
    }
  };

  const curve = (b, i, j) => {
    const [x0, y0, x1, y1] = [x(i), y(b), x(j), y(b + 1)], bend = (y1 - y0) * 0.5;
    return i === j ? `M${x0} ${y0}V${y1}` : `M${x0} ${y0}C${x0} ${y0 + bend} ${x1} ${y1 - bend} ${x1} ${y1}`;
  };
  const touched = () => {
    const nodes = new Set(model.targets);
    shown.forEach((yes, e) => yes && nodes.add(from(e)).add(to(e)));
    for (const node of lit.nodes || []) nodes.add(node);
    return nodes;
  };

  // Draws the edges to keep, and lights up the choice: {nodes, edges, ring, path}.
  const paint = (choice, keep) => {
    lit = choice;
    shown = keep;
    shown.forEach((yes, e) => {
      lines[e].classList.toggle("off", !yes);
      if (yes) lines[e].setAttribute("d", curve(above[e], source[e], target[e]));
      lines[e].classList.toggle("hot", choice.edges?.has(e) ?? false);
    });
    const nodes = touched();
    for (const node of nodes) ensure(node);
    circles.forEach((one, node) => {
      one.classList.toggle("off", !nodes.has(node) || !place.has(at(node)[1]));
      one.classList.toggle("hot", choice.nodes?.has(node) ?? false);
    });
    svg.classList.toggle("sel", Boolean(choice.nodes) && !choice.path);
    svg.classList.toggle("routed", Boolean(choice.path));
    ring.classList.toggle("off", choice.ring === undefined);
    if (choice.ring !== undefined) {
      const [b, p] = at(choice.ring);
      for (const [name, amount] of [["cx", x(p)], ["cy", y(b)], ["r", most + 2.5]]) ring.setAttribute(name, amount);
    }
    routeLayer.replaceChildren();
    if (choice.path) drawPath(choice.path);
    const bold = new Set([...(choice.nodes || [])].map((node) => at(node)[1]));
    grid.querySelectorAll(".tick").forEach((one) => one.classList.toggle("bold", bold.has(+one.dataset.tick)));
  };
  const drawPath = ({positions, moves, relevance}) => {
    const grey = positions.some((p) => model.special.has(p)), kind = grey ? "s" : relevance < 0 ? "minus" : "plus";
    for (let b = 0; b + 1 < positions.length; b++) {
      const stay = positions[b] === positions[b + 1];
      make("path", {class: `route ${kind}${stay ? " stay" : ""}`, d: curve(b, positions[b], positions[b + 1])}, routeLayer);
    }
    const right = svg.width.baseVal.value, placed = [];
    for (const [b, carrier] of moves) {
      const half = span(carrier) / 2 + 2, middle = (x(positions[b]) + x(positions[b + 1])) / 2;
      const left = Math.max(half, Math.min(right - half, middle)), level = (y(b) + y(b + 1)) / 2 + 4;
      const free = (height) => placed.every((one) => Math.abs(one.height - height) >= 12 || Math.abs(one.left - left) >= one.half + half);
      const height = [0, 12, -12, 24, -24, 36, -36].map((off) => level + off).find(free) ?? level;
      placed.push({left, height, half});
      const drawn = make("text", {class: "carrier", x: left, y: Math.max(12, height), "text-anchor": "middle"}, routeLayer, carrier);
      const box = drawn.getBBox(), over = Math.max(0, box.x + box.width + 2 - right) - Math.max(0, 2 - box.x);
      if (over) drawn.setAttribute("x", left - over);  // its font may be wider than what was measured
    }
  };

  // What lies under a pointer: the nearest dot within reach, else a line; fingers reach further.
  const pick = (event, finger) => {
    const frame = svg.getBoundingClientRect(), px = event.clientX - frame.left, py = event.clientY - frame.top;
    let best = finger ? 16 : Math.max(most, 6), node = null;
    circles.forEach((one, name) => {
      if (one.classList.contains("off")) return;
      const [b, p] = at(name), far = Math.hypot(x(p) - px, y(b) - py);
      if (far <= best) [best, node] = [far, name];
    });
    if (node !== null) return {node};
    const reach = finger ? [0, -5, 5, -10, 10] : [0];
    for (const dx of reach) for (const dy of reach) {
      const edge = document.elementFromPoint(event.clientX + dx, event.clientY + dy)?.dataset?.edge;
      if (edge !== undefined && svg.contains(lines[edge])) return {edge: +edge};
    }
    return {};
  };
  const reveal = () => { if (!ring.classList.contains("off")) ring.scrollIntoView({block: "nearest", inline: "nearest"}); };
  // The next dot in a direction, [up, right]; null if there is none.
  const neighbour = (node, [up, right]) => {
    let b = at(node)[0] + up, i = columns.indexOf(at(node)[1]) + right;
    for (; b >= 0 && b < rows && i >= 0 && i < columns.length; b += up, i += right) {
      const next = key(b, columns[i]);
      if (circles.has(next) && !circles.get(next).classList.contains("off")) return next;
    }
    return null;
  };
  return {svg, box, layout, paint, touched, pick, reveal, neighbour, first: () => [...model.targets, ...touched()][0] ?? null};
};

