// Draws every .lrp-graph of the page that is not drawn yet, from the JSON inside it. Text is set as text, never as markup.
document.querySelectorAll(".lrp-graph:not([data-drawn])").forEach((root) => {
  root.dataset.drawn = "";
  const find = (selector) => root.querySelector(selector);
  const data = JSON.parse(find("script[type='application/json']").textContent);
  const names = data.boundaries, places = data.positions, tokens = data.tokens, rows = names.length, columns = tokens.length;
  const [above, source, target, value, before, parts] = data.edges; // above[e]: boundary of the source; the target's is one more
  const count = value.length;
  const box = find(".lrp-scroll"), panel = find("aside"), tip = find(".lrp-tip");
  const slider = find("input[type=range]"), connected = find("input[type=checkbox]");
  const key = (boundary, position) => boundary * columns + position;
  const signed = (x) => x === 0 ? "0" : (x < 0 ? "−" : "+") + Math.abs(x).toPrecision(3).replace(/\.?0+(e|$)/, "$1");
  const percent = (x) => (Math.abs(x) >= 10 ? "over 1,000" : (x < 0 ? "−" : "") + (100 * Math.abs(x)).toFixed(1)) + " %";
  const token = (p) => `${tokens[p]} @${places[p]}`;
  const nodeText = (b, p) => `${token(p)}, ${names[b]}`;
  const kind = (x, special) => (special ? "s" : x < 0 ? "minus" : "plus");
  const isTarget = new Set(data.targets.map(([b, p]) => key(b, p)));
  const into = new Map(), out = new Map();
  for (let e = 0; e < count; e++) {
    const to = key(above[e] + 1, target[e]), from = key(above[e], source[e]);
    (into.get(to) || into.set(to, []).get(to)).push(e);
    (out.get(from) || out.set(from, []).get(from)).push(e);
  }

  // Geometry: layers upwards, tokens across.
  const gutter = 12 + 6.4 * Math.max(...names.map((name) => name.length));
  const short = (word) => (word.length > 13 ? word.slice(0, 12) + "…" : word);
  const room = Math.max(320, box.clientWidth - gutter - 24);
  const cell = Math.min(84, Math.max(16, room / columns));
  const row = Math.min(72, Math.max(rows > 24 ? 14 : 24, 620 / rows));
  const top = 16, footer = 96;
  const ticks = tokens.map((word, p) => short(word) + (columns < data.allTokens ? ` ${places[p]}` : ""));
  const pad = Math.max(0, ...ticks.map((tick, p) => 3.6 * tick.length - (p + 0.5) * cell)); // slanted labels lean left
  const x = (position) => pad + (position + 0.5) * cell;
  const y = (boundary) => top + (rows - 1 - boundary) * row;
  const width = pad + columns * cell + 16, height = y(0) + footer;
  const make = (tag, attributes, parent, text) => {
    const one = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const name in attributes) one.setAttribute(name, attributes[name]);
    if (text !== undefined) one.textContent = text;
    parent.append(one);
    return one;
  };
  const axis = make("svg", {class: "lrp-axis", width: gutter, height}, box);
  const svg = make("svg", {width, height, tabindex: 0, role: "application", "aria-label": "Attribution graph"}, box);
  const every = Math.ceil(13 / row);
  names.forEach((name, b) => {
    make("line", {class: "rule", x1: 0, x2: width, y1: y(b), y2: y(b), opacity: / mid$/.test(name) ? 0.35 : 1}, svg);
    if (row < 13 * 1.6 && / mid$/.test(name)) return;
    if (b % every) return;
    make("text", {x: gutter - 8, y: y(b) + 4, "text-anchor": "end"}, axis, name);
  });
  ticks.forEach((tick, p) => {
    make("line", {class: "rule", x1: x(p), x2: x(p), y1: y(rows - 1), y2: y(0), opacity: 0.6}, svg);
    const at = `translate(${x(p) + 4},${y(0) + 16}) rotate(-58)`;
    make("text", {transform: at, "text-anchor": "end", class: data.special[p] ? "s" : ""}, svg, tick);
  });

  // Edges, weakest first; nodes above them.
  const edgeLayer = make("g", {}, svg), nodeLayer = make("g", {}, svg), marks = make("g", {}, svg);
  const lines = [];
  for (let e = 0; e < count; e++) {
    const [x0, y0, x1, y1] = [x(source[e]), y(above[e]), x(target[e]), y(above[e] + 1)];
    const bend = (y1 - y0) * 0.5;
    const size = Math.min(1, Math.abs(value[e]) / data.edgeMax);
    const special = data.special[source[e]] || data.special[target[e]];
    lines.push(make("path", {
      class: "edge " + kind(value[e], special), "data-edge": e,
      d: x0 === x1 ? `M${x0} ${y0}V${y1}` : `M${x0} ${y0}C${x0} ${y0 + bend} ${x1} ${y1 - bend} ${x1} ${y1}`,
      "stroke-width": (0.5 + 5 * Math.sqrt(size)).toFixed(2), opacity: (0.22 + 0.68 * Math.sqrt(size)).toFixed(2),
    }, edgeLayer));
  }
  const circles = new Map();
  const most = Math.min(9, 0.46 * row, 0.46 * cell);
  for (const at of new Set([...into.keys(), ...out.keys(), ...isTarget])) {
    const b = Math.floor(at / columns), p = at % columns, size = Math.min(1, Math.abs(data.nodes[b][p]) / data.nodeMax);
    const place = {cx: x(p), cy: y(b), "data-node": at};
    const ball = make("circle", {
      ...place, class: "node " + kind(data.nodes[b][p], data.special[p]), r: (1.6 + (most - 1.6) * Math.sqrt(size)).toFixed(2),
    }, nodeLayer);
    if (isTarget.has(at)) make("circle", {class: "goal", cx: x(p), cy: y(b), r: most + 3}, marks);
    circles.set(at, [ball, make("circle", {...place, class: "hit", r: Math.max(most, 6)}, nodeLayer)]);
  }
  const ring = make("circle", {class: "ring off", r: most + 2.5}, marks);

  // What the slider shows.
  let shown = [], selected = null, chosenEdge = null;
  const update = () => {
    const share = slider.value / 100;
    find("output").textContent = `${slider.value} %`;
    const keep = before.map((one) => share >= 1 || one < share);
    if (connected.checked && isTarget.size) {
      const reached = new Set(isTarget);
      const order = [...keep.keys()].sort((a, b) => above[b] - above[a]);
      for (const e of order) {
        if (keep[e] && reached.has(key(above[e] + 1, target[e]))) reached.add(key(above[e], source[e]));
        else keep[e] = false;
      }
    }
    shown = keep;
    const touched = new Set(isTarget);
    let number = 0, mass = 0;
    keep.forEach((yes, e) => {
      lines[e].classList.toggle("off", !yes);
      if (!yes) return;
      number += 1;
      mass += Math.abs(value[e]);
      touched.add(key(above[e], source[e])).add(key(above[e] + 1, target[e]));
    });
    circles.forEach((pair, at) => pair.forEach((one) => one.classList.toggle("off", !touched.has(at))));
    const total = data.totalMass.reduce((sum, one) => sum + one, 0) || 1;
    find(".lrp-count").textContent =
      `${number.toLocaleString("en")} edges, ${touched.size.toLocaleString("en")} nodes, ${percent(mass / total)} of all Σ|A|`;
    paint();
  };

  // The panel: a node's account, or an edge's parts.
  const tell = (parent, tag, text) => {
    const one = document.createElement(tag);
    one.textContent = text;
    parent.append(one);
    return one;
  };
  const table = (title, list, total) => {
    if (!list.length) return;
    tell(panel, "h3", title);
    const body = tell(panel, "table", "");
    list.forEach(([label, amount, go, note]) => {
      const line = tell(body, "tr", ""), first = tell(line, "td", "");
      if (go) tell(first, "button", label).addEventListener("click", go);
      else first.textContent = label;
      if (note) tell(first, "small", " " + note);
      tell(line, "td", signed(amount));
    });
    if (total === undefined) return;
    const line = tell(body, "tr", "");
    line.className = "total";
    tell(line, "td", "relevance");
    tell(line, "td", signed(total));
  };
  const strongest = (list) => (list || []).filter((e) => shown[e]).sort((a, b) => Math.abs(value[b]) - Math.abs(value[a]));
  const listed = 15;
  const edgeRows = (list, end) => list.slice(0, listed).map((e) => {
    const [b, p] = end === "source" ? [above[e], source[e]] : [above[e] + 1, target[e]];
    return [token(p), value[e], () => select(key(b, p)), parts[e][0] ? parts[e][0][0] : ""];
  });
  const heading = (title, list) =>
    `${title}: ${list.length}` + (list.length > listed ? `, the strongest ${listed}` : "");
  const refined = (prefix) => {
    for (const name of Object.keys(data.refinements)) {
      if (name.startsWith(prefix + " into ")) table(name.slice(prefix.length + 1), data.refinements[name].map(([a, b]) => [a, b]));
    }
  };
  const describeNode = (at) => {
    const b = Math.floor(at / columns), p = at % columns, relevance = data.nodes[b][p];
    tell(panel, "h2", nodeText(b, p));
    tell(panel, "div", `relevance ${signed(relevance)}, ${percent(relevance / Math.abs(data.metric))} of the metric`);
    const ins = strongest(into.get(at)), outs = strongest(out.get(at));
    if (b > 0) {
      const account = [["in-edges shown", ins.reduce((sum, e) => sum + value[e], 0)]];
      data.sinkKinds.forEach((name, k) => data.sinks[b - 1][k][p] && account.push([name + " (sink)", data.sinks[b - 1][k][p]]));
      const rest = relevance - account.reduce((sum, one) => sum + one[1], 0);
      account.push(["pruned or hidden edges", Math.abs(rest) < 1e-4 * Math.abs(relevance) ? 0 : rest]);
      table("Where it goes", account, relevance);
    }
    table(heading(`In-edges from ${names[b - 1]}`, ins), edgeRows(ins, "source"));
    table(heading(`Out-edges to ${names[b + 1]}`, outs), edgeRows(outs, "target"));
    refined(`${names[b]}@${places[p]}`);
  };
  const describeEdge = (e) => {
    const [b, i, j] = [above[e], source[e], target[e]];
    tell(panel, "h2", `${token(i)} → ${token(j)}`);
    tell(panel, "div", `${names[b]} → ${names[b + 1]}`);
    const whole = data.nodes[b + 1][j];
    tell(panel, "div", `relevance ${signed(value[e])}, ${percent(value[e] / Math.abs(whole || 1))} of its target's`);
    table("Carried by", parts[e].map(([name, amount]) => [name, amount]));
    table("Ends", [[nodeText(b, i), data.nodes[b][i], () => select(key(b, i))], [nodeText(b + 1, j), whole, () => select(key(b + 1, j))]]);
    refined(`${names[b]}@${places[i]} → ${names[b + 1]}@${places[j]}`);
  };
  const paint = () => {
    panel.replaceChildren();
    svg.classList.toggle("sel", selected !== null || chosenEdge !== null);
    svg.querySelectorAll(".hot").forEach((one) => one.classList.remove("hot"));
    ring.classList.toggle("off", selected === null);
    if (selected !== null) {
      ring.setAttribute("cx", x(selected % columns));
      ring.setAttribute("cy", y(Math.floor(selected / columns)));
      const near = new Set([selected]);
      for (const e of [...(into.get(selected) || []), ...(out.get(selected) || [])]) {
        lines[e].classList.add("hot");
        if (shown[e]) near.add(key(above[e], source[e])).add(key(above[e] + 1, target[e]));
      }
      near.forEach((at) => circles.has(at) && circles.get(at)[0].classList.add("hot"));
      describeNode(selected);
    } else if (chosenEdge !== null) {
      lines[chosenEdge].classList.add("hot");
      describeEdge(chosenEdge);
    } else {
      tell(panel, "h2", "How to read this");
      tell(panel, "p", "Each row is a state of the residual stream, the embedding at the bottom; each column is a token. A line says how much of the upper state's relevance the lower one receives.");
      tell(panel, "p", "Click a dot or a line for its account; arrow keys walk from dot to dot, Escape lets go.");
      if (isTarget.size) tell(panel, "p", "The dashed ring marks the state that the metric reads.");
    }
  };
  const select = (at) => { selected = at; chosenEdge = null; paint(); };

  // Pointer and keys.
  const hit = (event) => (event.target.dataset ? event.target.dataset : {});
  svg.addEventListener("click", (event) => {
    const {node, edge} = hit(event);
    if (node === undefined && edge !== undefined) { selected = null; chosenEdge = +edge; paint(); }
    else select(node === undefined ? null : +node);
  });
  svg.addEventListener("pointermove", (event) => {
    const {node, edge} = hit(event);
    tip.hidden = event.pointerType === "touch" || (node === undefined && edge === undefined);
    if (tip.hidden) return;
    tip.replaceChildren();
    if (node !== undefined) {
      const b = Math.floor(node / columns), p = node % columns;
      tell(tip, "b", nodeText(b, p));
      tell(tip, "div", `relevance ${signed(data.nodes[b][p])}, ${percent(data.nodes[b][p] / Math.abs(data.metric))} of the metric`);
      if (data.special[p]) tell(tip, "div", "special token");
    } else {
      const [b, i, j] = [above[edge], source[edge], target[edge]];
      tell(tip, "b", `${token(i)} → ${token(j)}`);
      tell(tip, "div", `${names[b]} → ${names[b + 1]}`);
      tell(tip, "div", `relevance ${signed(value[edge])}, ${percent(value[edge] / Math.abs(data.nodes[b + 1][j] || 1))} of its target's`);
      parts[edge].slice(0, 4).forEach(([name, amount]) => tell(tip, "div", `${name}: ${signed(amount)}`));
    }
    const {width: w, height: h} = tip.getBoundingClientRect();
    tip.style.left = Math.max(4, Math.min(event.clientX + 14, innerWidth - w - 8)) + "px";
    tip.style.top = Math.max(4, event.clientY + 18 + h > innerHeight ? event.clientY - h - 10 : event.clientY + 18) + "px";
  });
  svg.addEventListener("pointerleave", () => { tip.hidden = true; });
  svg.addEventListener("keydown", (event) => {
    const step = {ArrowUp: [1, 0], ArrowDown: [-1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1]}[event.key];
    if (event.key === "Escape") select(null);
    if (!step) return;
    event.preventDefault();
    if (selected === null) { select(isTarget.size ? [...isTarget][0] : [...circles.keys()][0]); return; }
    let b = Math.floor(selected / columns) + step[0], p = (selected % columns) + step[1];
    for (; b >= 0 && b < rows && p >= 0 && p < columns; b += step[0], p += step[1]) {
      const pair = circles.get(key(b, p));
      if (pair && !pair[0].classList.contains("off")) { select(key(b, p)); return; }
    }
  });
  slider.value = Math.round(100 * data.start);
  slider.addEventListener("input", update);
  connected.addEventListener("change", update);
  update();
  box.scrollLeft = box.scrollWidth; // the target, where reading starts
});
