// Draws every visible figure of the page from the JSON beside its box, in the colours of the reader's theme; a figure
// behind a switch when it is first shown.  Boxes that scroll sideways get a hint.
(() => {
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const grey = [[0, "#3a4049"], [1, "#3a4049"]];
  const night = {
    default: [[0, "#d93c3a"], [0.25, "#8d2f31"], [0.5, "#1d2128"], [0.75, "#28598a"], [1, "#2f7fd0"]],
  };
  night.lrp = night.default.map(([at, colour]) => [1 - at, colour]).reverse();

  const draw = (box) => {
    const figure = JSON.parse(document.getElementById(box.dataset.figure).textContent);
    const layout = figure.layout;
    const ink = dark.matches ? "#c9cfd7" : "#2a3038";
    const line = dark.matches ? "#2a2f37" : "#e6e8ec";
    layout.paper_bgcolor = layout.plot_bgcolor = "rgba(0,0,0,0)";
    layout.font = {...(layout.font || {}), color: ink, family: "system-ui, sans-serif"};
    layout.autosize = true;
    delete layout.width;
    const labels = layout.xaxis && layout.xaxis.tickvals;
    if (labels && box.clientWidth < 14 * labels.length) layout.xaxis.tickfont = {size: 9};
    layout.dragmode = false; // a finger scrolls the page
    if (!layout.legend) layout.margin.t = 8; // room for the title, which the section says
    delete layout.title;
    for (const name of Object.keys(layout).filter((key) => /^[xy]axis/.test(key))) {
      Object.assign(layout[name], {fixedrange: true, gridcolor: line, zerolinecolor: line, linecolor: line});
    }
    for (const trace of dark.matches ? figure.data : []) {
      if (trace.meta && trace.meta.diverging) trace.colorscale = night[trace.meta.diverging];
      if (trace.name === "special tokens") trace.colorscale = grey;
    }
    Plotly.react(box, figure.data, layout, {responsive: true, displayModeBar: false});
  };

  const all = () => {
    [...document.querySelectorAll("[data-figure]")].filter((box) => box.offsetParent).forEach(draw);
    hint();
  };
  const hint = () => {
    for (const box of document.querySelectorAll(".scroll")) {
      box.classList.toggle("wide", box.scrollWidth > box.clientWidth + 1);
    }
  };
  for (const one of document.querySelectorAll(".switch")) {
    const [label, first, second] = one.children, input = label.firstChild;
    const show = () => [first.hidden, second.hidden] = [!input.checked, input.checked];
    show(); // a browser that reloads the page keeps what was chosen
    input.addEventListener("change", () => { show(); all(); });
  }
  all();
  dark.addEventListener("change", all);
  window.addEventListener("resize", hint);
  document.querySelectorAll("details").forEach((one) => one.addEventListener("toggle", hint));
})();
