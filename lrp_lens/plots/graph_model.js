// What the data say: neighbours, which edges each step of the slider shows, words for tokens and numbers.
const STEPS = 60, LEGIBLE = 300;

const signed = (x) => (x === 0 ? "0" : (x < 0 ? "−" : "+") + Math.abs(x).toPrecision(3).replace(/\.?0+(e|$)/, "$1"));
const percent = (x) => (Math.abs(x) >= 10 ? "over 1,000" : (x < 0 ? "−" : "") + (100 * Math.abs(x)).toFixed(1)) + " %";
const counted = (n, noun) => `${n.toLocaleString("en")} ${noun}${n === 1 ? "" : "s"}`;
const clipped = (word, most) => {
  const letters = Array.from(word);
  return letters.length > most ? letters.slice(0, most - 1).join("") + "…" : word;
};

const makeModel = (data) => {
  const [above, source, target, value, before, parts] = data.edges; // above[e]: the source's boundary; the target's is one more
  const rows = data.boundaries.length, width = data.tokens.length, count = value.length;
  const key = (boundary, position) => boundary * width + position;
  const at = (node) => [Math.floor(node / width), node % width];
  const from = (e) => key(above[e], source[e]), to = (e) => key(above[e] + 1, target[e]);
  const special = new Set(data.special), targets = new Set(data.targets.map(([b, p]) => key(b, p)));
  const account = new Map(data.nodes[0].map((b, i) => [key(b, data.nodes[1][i]), {relevance: data.nodes[2][i], sinks: data.nodes[3][i]}]));
  const into = new Map(), out = new Map();
  for (let e = 0; e < count; e++) {
    (into.get(to(e)) || into.set(to(e), []).get(to(e))).push(e);
    (out.get(from(e)) || out.set(from(e), []).get(from(e))).push(e);
  }

  // Isolates keep a token's writing direction to itself; a piece is told with its word.
  const isolated = (text) => `\u2068${clipped(text, 60)}\u2069`;
  const token = (p) => `${isolated(data.tokens[p])}\u00a0@${p}${data.words[p] ? ` of ${isolated(data.words[p])}` : ""}`;
  const nodeText = (b, p) => `${token(p)}, ${data.boundaries[b]}`;

  // Edge e shows at level s if need[e] ≤ s.  With `leading`, the weakest edge of its best chain to a target has to show, too.
  const needs = (leading) => {
    if (!leading || !targets.size) return before;
    const reach = new Map([...targets].map((node) => [node, -1])), need = new Array(count).fill(Infinity);
    const order = [...before.keys()].sort((a, b) => above[b] - above[a]);
    for (const e of order) {
      if (!reach.has(to(e))) continue;
      need[e] = Math.max(before[e], reach.get(to(e)));
      reach.set(from(e), Math.min(need[e], reach.get(from(e)) ?? Infinity));
    }
    return need;
  };

  // The slider's steps: levels that each add edges, in even steps of the logarithm of their number.  The first one to show
  // is what pruning with the share `start` keeps; without a share, as much as is legible.
  const steps = (need, start) => {
    const sorted = need.filter((one) => one < Infinity).sort((a, b) => a - b), total = sorted.length;
    const levels = new Set();
    for (let i = 0; i < STEPS && total; i++) levels.add(sorted[Math.ceil(total ** (i / (STEPS - 1))) - 1]);
    const begun = start === null ? sorted.slice(0, LEGIBLE) : sorted.filter((one) => start >= 1 || one < start);
    if (begun.length) levels.add(begun[begun.length - 1]);
    const list = [...levels].sort((a, b) => a - b);
    return {levels: list, first: begun.length ? list.indexOf(begun[begun.length - 1]) : 0, total};
  };

  return {
    data, rows, width, count, above, source, target, value, parts, key, at, from, to, into, out, special, targets, token, nodeText,
    needs, steps,
    relevance: (node) => account.get(node)?.relevance ?? 0,
    sinks: (node) => account.get(node)?.sinks ?? [],
    isSpecial: (e) => special.has(source[e]) || special.has(target[e]),
    kind: (x, grey) => (grey ? "s" : x < 0 ? "minus" : "plus"),
    ofMetric: (x) => `${percent(x / Math.abs(data.metric || 1))} of the metric`,
  };
};

