// Brings every .lrp-graph of the page to life that is not drawn yet: slider, switches, pointer and keys.
document.querySelectorAll(".lrp-graph:not([data-drawn])").forEach((root) => {
  root.dataset.drawn = "";
  const find = (selector) => root.querySelector(selector);
  const data = JSON.parse(find("script[type='application/json']").textContent);
  const model = makeModel(data), drawing = makeDrawing(root, model);
  const slider = find("input[type=range]"), leading = find(".lrp-leading"), touchedOnly = find(".lrp-touched"), zoom = find("select");
  const tip = find(".lrp-tip"), {svg} = drawing;
  let choice = data.paths.length ? {path: data.paths[0]} : {}, shown = [], need = [], steps = {levels: []}, level = -1;
  const pathNodes = (path) => path.positions.map((p, b) => model.key(b, p));

  // What the drawing has to light up for a choice.
  const lit = () => {
    if (choice.path) return {path: choice.path, nodes: new Set(pathNodes(choice.path))};
    if (choice.edge !== undefined) {
      return {edges: new Set([choice.edge]), nodes: new Set([model.from(choice.edge), model.to(choice.edge)])};
    }
    if (choice.node === undefined) return {};
    const edges = [...(model.into.get(choice.node) || []), ...(model.out.get(choice.node) || [])].filter((e) => shown[e]);
    return {ring: choice.node, edges: new Set(edges), nodes: new Set([choice.node, ...edges.map(model.from), ...edges.map(model.to)])};
  };
  const choose = (wanted) => {
    const within = find(".lrp-detail").contains(document.activeElement);
    choice = wanted;
    render();
    drawing.reveal();
    if (within) svg.focus({preventScroll: true}); // the button that was pressed is gone
  };
  const panel = makePanel(root, model, choose);

  const render = () => {
    const chosen = lit(), onPaths = data.paths.flatMap((path) => path.positions);
    const lighted = [...(chosen.nodes || [])].map((node) => model.at(node)[1]);
    const used = new Set([...lighted, ...onPaths]);
    shown.forEach((yes, e) => yes && used.add(model.source[e]).add(model.target[e]));
    data.targets.slice(0, 128).forEach(([, p]) => used.add(p));
    const every = [...data.tokens.keys()], columns = touchedOnly.checked ? every.filter((p) => used.has(p)) : every;
    const ends = data.targets.length ? [data.targets[data.targets.length - 1][1]] : [];
    drawing.layout(columns.length ? columns : every, [...ends, ...lighted, ...onPaths, ...used], +zoom.value);
    drawing.paint(chosen, shown);
    panel.paint(choice, shown);
  };

  // The slider's steps follow from the edges that may show; `start` is the level to begin at.
  const restep = (start) => {
    need = model.needs(leading.checked);
    steps = model.steps(need, start);
    slider.max = Math.max(0, steps.levels.length - 1);
    slider.value = steps.first;
    slider.disabled = steps.levels.length < 2;
    update();
  };
  const update = () => {
    level = steps.levels[slider.value] ?? -1;
    shown = need.map((one) => one <= level);
    const number = shown.filter(Boolean).length, sum = (keep) => model.value.reduce((all, one, e) => all + (keep(e) ? Math.abs(one) : 0), 0);
    const total = data.mass[0] || 1, visible = sum((e) => shown[e]) / total, held = sum(() => true) / total;
    const words = `${number.toLocaleString("en")} of ${counted(steps.total, "edge")}`;
    find("output").textContent = words;
    slider.setAttribute("aria-valuetext", words);
    const gone = Math.max(0, 1 - held), hidden = Math.max(0, held - visible);
    find(".lrp-count").textContent = `The edges shown carry ${percent(visible)} of all relevance handed on from state to state (sizes added up)` +
      (hidden > 5e-4 ? `; the slider and the switches hide ${percent(hidden)}` : "") + (gone > 5e-4 ? `; ${percent(gone)} was dropped as weak before this page was made` : "") + ".";
    if (choice.edge !== undefined && !shown[choice.edge]) choice = {};
    render();
  };

  // Pointer and keys.
  const hide = () => { tip.hidden = true; };
  const describe = ({node, edge}, event) => {
    tip.hidden = node === undefined && edge === undefined;
    if (tip.hidden) return;
    tip.replaceChildren();
    if (node !== undefined) {
      const [b, p] = model.at(node), relevance = model.relevance(node);
      tell(tip, "b", model.nodeText(b, p));
      tell(tip, "div", `relevance ${signed(relevance)}, ${model.ofMetric(relevance)}`);
      if (model.special.has(p)) tell(tip, "div", "special token");
    } else {
      const b = model.above[edge], value = model.value[edge];
      tell(tip, "b", `${model.token(model.source[edge])} → ${model.token(model.target[edge])}`);
      tell(tip, "div", `${data.boundaries[b]} → ${data.boundaries[b + 1]}`);
      tell(tip, "div", `relevance ${signed(value)}, ${percent(value / Math.abs(model.relevance(model.to(edge)) || 1))} of its target's`);
      model.parts[edge].slice(0, 4).forEach(([name, amount]) => tell(tip, "div", `${name}: ${signed(amount)}`));
    }
    const {width: w, height: h} = tip.getBoundingClientRect(), wide = document.documentElement.clientWidth;
    tip.style.left = Math.max(4, Math.min(event.clientX + 14, wide - w - 8)) + "px";
    tip.style.top = Math.max(4, event.clientY + 18 + h > innerHeight ? event.clientY - h - 10 : event.clientY + 18) + "px";
  };
  let finger = false;
  svg.addEventListener("pointerdown", (event) => { finger = event.pointerType === "touch"; });
  svg.addEventListener("click", (event) => {
    const found = drawing.pick(event, finger);
    choose(found);
    if (finger) describe(found, event);
  });
  svg.addEventListener("pointermove", (event) => { if (event.pointerType !== "touch") describe(drawing.pick(event, false), event); });
  svg.addEventListener("pointerleave", (event) => { if (event.pointerType !== "touch") hide(); });
  addEventListener("scroll", hide, {passive: true});
  svg.addEventListener("keydown", (event) => {
    const step = {ArrowUp: [1, 0], ArrowDown: [-1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1]}[event.key];
    if (event.key === "Escape") choose({});
    if (!step) return;
    event.preventDefault();
    const next = choice.node === undefined ? drawing.first() : drawing.neighbour(choice.node, step);
    if (next !== null) choose({node: next});
  });
  slider.addEventListener("input", update);
  leading.addEventListener("change", () => restep(level === -1 ? data.start : Math.min(1, level + 1e-9)));
  touchedOnly.addEventListener("change", render);
  zoom.addEventListener("change", () => { render(); drawing.reveal(); });
  restep(data.start);
  let width = root.clientWidth;
  new ResizeObserver(() => {
    if (root.clientWidth === width) return;
    width = root.clientWidth;
    render();
  }).observe(root);
});
