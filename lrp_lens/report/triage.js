// The table of cases: sorting, filtering, searching, and fold-outs that are unpacked and drawn when they are first opened.
(() => {
  const table = document.querySelector(".cases"), form = document.querySelector(".filters"), count = document.getElementById("count");
  const {names, rows} = JSON.parse(document.getElementById("keys").textContent);
  const bodies = [...table.tBodies], folded = [...document.querySelectorAll(".folded")];
  const at = Object.fromEntries(names.map((name, i) => [name, i])), said = count.textContent;
  const selects = [...form.querySelectorAll("select")], search = form.querySelector("input");
  const ordered = new Set(["number", "gap", "confidence"]);

  const filter = () => {
    const wanted = selects.filter((one) => one.value).map((one) => [at[one.dataset.column], one.value]);
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    rows.forEach((row, i) => {
      const fits = wanted.every(([column, value]) => row[column] === value) && words.every((word) => row[at.text].includes(word));
      bodies[i].hidden = !fits;
      shown += fits;
    });
    count.textContent = shown === rows.length ? said : `${shown} of ${said}`;
  };

  // Rows without a value come last, whichever way the others are sorted.
  const sort = (key, down) => {
    const column = at[key], missing = (value) => value === null || value === "";
    const order = [...rows.keys()].sort((i, j) => {
      const [a, b] = [rows[i][column], rows[j][column]];
      if (missing(a) || missing(b)) return missing(a) - missing(b) || i - j;
      const sign = ordered.has(key) ? a - b : a < b ? -1 : a > b ? 1 : 0;
      return (down ? -sign : sign) || i - j;
    });
    table.append(...order.map((i) => bodies[i]));
  };
  for (const button of table.querySelectorAll("[data-sort]")) {
    button.addEventListener("click", () => {
      const head = button.closest("th"), before = head.getAttribute("aria-sort");
      const numbers = ordered.has(button.dataset.sort) && button.dataset.sort !== "number";
      const down = before ? before === "ascending" : numbers;
      table.querySelectorAll("th").forEach((one) => one.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      sort(button.dataset.sort, down);
    });
  }

  const unpack = async (text) => {
    const bytes = Uint8Array.from(atob(text), (one) => one.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"))).text();
  };
  const hint = (box) => box.querySelectorAll(".scroll").forEach((one) => one.classList.toggle("wide", one.scrollWidth > one.clientWidth + 1));
  const drawIn = (box) => {
    const others = [...document.querySelectorAll(".lrp-graph:not([data-drawn])")].filter((one) => !box.contains(one));
    others.forEach((one) => { one.dataset.drawn = "later"; });
    drawGraphs();
    others.forEach((one) => { delete one.dataset.drawn; });
  };
  const open = async (i) => {
    const line = document.createElement("tr"), cell = document.createElement("td"), box = document.createElement("div");
    line.className = "open";
    cell.colSpan = table.tHead.rows[0].cells.length;
    cell.append(box);
    line.append(cell);
    bodies[i].append(line);
    try {
      box.innerHTML = await unpack(JSON.parse(folded[i].textContent)[0]); // made by escaping templates
    } catch (error) {
      box.textContent = `This browser cannot unfold cases (${error.name}); a newer one can.`;
    }
    for (const one of box.querySelectorAll("details")) {
      one.addEventListener("toggle", () => {
        hint(one);
        if (one.open && one.classList.contains("graph")) drawIn(one); // laid out for the width that it has now
      });
    }
    hint(box);
  };
  const places = new Map(bodies.map((body, i) => [body, i]));
  table.addEventListener("click", (event) => {
    const line = event.target.closest(".line");
    if (!line) return;
    const body = line.parentElement, button = line.querySelector(".fold");
    if (String(getSelection()) && event.target !== button) return; // text was marked
    const opens = button.getAttribute("aria-expanded") === "false";
    button.setAttribute("aria-expanded", opens);
    if (body.rows.length === 1) open(places.get(body));
    else body.rows[1].hidden = !opens;
  });

  // A bar shows its own cases.
  for (const part of document.querySelectorAll("button.part")) {
    part.addEventListener("click", () => {
      form.reset();
      for (const one of selects) {
        if (one.dataset.column === part.dataset.column) one.value = part.dataset.value;
        if (one.dataset.column === "suite" && part.dataset.suite) one.value = part.dataset.suite;
      }
      filter();
      form.scrollIntoView({block: "start"});
    });
  }
  form.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(filter));
  filter(); // a browser that reloads the page keeps what was chosen
  addEventListener("load", () => setTimeout(() => table.classList.add("ready")));
})();
