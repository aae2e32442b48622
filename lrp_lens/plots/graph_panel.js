// The panel: the list of the strongest paths, and the account of what is chosen.  Text is set as text, never as markup.
const LISTED = 15;

const tell = (parent, tag, text, name) => {
  const one = document.createElement(tag);
  if (text !== undefined) one.textContent = text;
  if (name) one.className = name;
  parent.append(one);
  return one;
};

const makePanel = (root, model, choose) => {
  const {data, above, source, target, value, parts, key, at, token, nodeText} = model;
  const list = root.querySelector(".lrp-paths"), detail = root.querySelector(".lrp-detail");
  const buttons = [];

  const listPaths = () => {
    tell(list, "h2", "Strongest paths");
    if (!data.paths.length) {
      const why = model.targets.size ? "No chain of kept edges leads from the embedding to the target." : "The graph names no target to lead to.";
      tell(list, "p", why, "lrp-hint");
      return;
    }
    const items = tell(list, "ol");
    for (const path of data.paths) {
      const button = tell(tell(items, "li"), "button");
      button.type = "button";
      const grey = path.positions.some((p) => model.special.has(p));
      tell(button, "b", signed(path.relevance), model.kind(path.relevance, grey));
      const words = tell(button, "span");
      tell(words, "bdi", token(path.positions[0]));
      for (const [b, carrier] of path.moves) {
        words.append(" ");
        tell(words, "small", `→ ${carrier} →`);
        words.append(" ");
        tell(words, "bdi", token(path.positions[b + 1]));
      }
      if (path.moves.length === 0) {
        words.append(" ");
        tell(words, "small", "stays at its token");
      }
      button.addEventListener("click", () => choose({path}));
      buttons.push([path, button]);
    }
    tell(list, "p", "A path is told by its moves between tokens: block, head, and whether by what was copied (OV) or by where the model looked (K, Q). Between moves it stays at its token; that is folded. Paths that never move stand last.", "lrp-hint");
  };

  const table = (title, rows, total) => {
    if (!rows.length) return;
    tell(detail, "h3", title);
    const body = tell(detail, "table");
    rows.forEach(([label, amount, go, note]) => {
      const line = tell(body, "tr"), first = tell(line, "td");
      if (go) {
        const button = tell(first, "button", label);
        button.type = "button";
        button.addEventListener("click", go);
      } else first.textContent = label;
      if (note) tell(first, "small", " " + note);
      tell(line, "td", signed(amount));
    });
    if (total === undefined) return;
    const line = tell(body, "tr", undefined, "total");
    tell(line, "td", "relevance");
    tell(line, "td", signed(total));
  };
  const refined = (prefix) => {
    for (const name of Object.keys(data.refinements)) {
      if (name.startsWith(prefix + " into ")) table(name.slice(prefix.length + 1), data.refinements[name]);
    }
  };

  const describeNode = (node, shown) => {
    const [b, p] = at(node), relevance = model.relevance(node), names = data.boundaries;
    const strongest = (edges) => (edges || []).filter((e) => shown[e]).sort((i, j) => Math.abs(value[j]) - Math.abs(value[i]));
    const rowsOf = (edges, end) => edges.slice(0, LISTED).map((e) => {
      const far = end === "source" ? model.from(e) : model.to(e);
      const still = source[e] === target[e] ? "stays at its token, " : "";
      return [token(at(far)[1]), value[e], () => choose({node: far}), still + (parts[e][0] ? parts[e][0][0] : "")];
    });
    const heading = (title, edges) => `${title}: ${edges.length}` + (edges.length > LISTED ? `, the strongest ${LISTED}` : "");
    tell(detail, "h2", nodeText(b, p));
    tell(detail, "div", `relevance ${signed(relevance)}, ${model.ofMetric(relevance)}`);
    if (model.special.has(p)) tell(detail, "div", "special token, out of the colour scale");
    const ins = strongest(model.into.get(node)), outs = strongest(model.out.get(node));
    if (b > 0) {
      const rows = [["in-edges shown", ins.reduce((sum, e) => sum + value[e], 0)]];
      for (const [kind, amount] of model.sinks(node)) rows.push([data.sinkKinds[kind] + " (sink)", amount]);
      const rest = relevance - rows.reduce((sum, one) => sum + one[1], 0);
      rows.push(["pruned or hidden edges", Math.abs(rest) < 1e-4 * Math.abs(relevance) ? 0 : rest]);
      table("Where it goes", rows, relevance);
    }
    table(heading(`In-edges from ${names[b - 1]}`, ins), rowsOf(ins, "source"));
    table(heading(`Out-edges to ${names[b + 1]}`, outs), rowsOf(outs, "target"));
    refined(`${names[b]}@${p}`);
  };
  const describeEdge = (e) => {
    const [b, i, j] = [above[e], source[e], target[e]], whole = model.relevance(model.to(e));
    tell(detail, "h2", `${token(i)} → ${token(j)}`);
    tell(detail, "div", `${data.boundaries[b]} → ${data.boundaries[b + 1]}`);
    tell(detail, "div", `relevance ${signed(value[e])}, ${percent(value[e] / Math.abs(whole || 1))} of its target's`);
    table("Carried by", parts[e]);
    const ends = [[b, i], [b + 1, j]].map(([bb, p]) => [nodeText(bb, p), model.relevance(key(bb, p)), () => choose({node: key(bb, p)})]);
    table("Ends", ends);
    refined(`${data.boundaries[b]}@${i} → ${data.boundaries[b + 1]}@${j}`);
  };
  const describePath = ({positions, moves, relevance}) => {
    tell(detail, "h2", moves.length ? "This path" : `Stays at ${token(positions[0])}`);
    tell(detail, "div", `relevance ${signed(relevance)}, ${model.ofMetric(relevance)}`);
    const rows = moves.map(([b, carrier, amount]) => {
      const go = () => choose({node: key(b, positions[b])});
      return [`${token(positions[b])} → ${token(positions[b + 1])}`, amount, go, carrier];
    });
    table("Its moves, with the relevance of each whole edge", rows);
    tell(detail, "p", "Several paths share an edge; a path's relevance is its share.", "lrp-hint");
  };
  const explain = () => {
    tell(detail, "h2", "How to read this");
    tell(detail, "p", "Each row is a state of the residual stream, the embedding at the bottom; each column is a token. A line says how much of the upper state's relevance the lower one receives.");
    tell(detail, "p", "Faint upright lines stay at their token. Click a dot or a line for its account; arrow keys walk from dot to dot, Escape lets go.");
  };

  const paint = (choice, shown) => {
    buttons.forEach(([path, button]) => button.setAttribute("aria-pressed", String(choice.path === path)));
    detail.replaceChildren();
    if (choice.node === undefined && choice.edge === undefined) list.after(detail);
    else list.before(detail); // what was asked for comes first
    if (choice.path) describePath(choice.path);
    else if (choice.node !== undefined) describeNode(choice.node, shown);
    else if (choice.edge !== undefined) describeEdge(choice.edge);
    else explain();
  };
  listPaths();
  return {paint};
};

