// Draws every figure of the page from the JSON beside its box, in the colours of the reader's theme.
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

  const all = () => document.querySelectorAll("[data-figure]").forEach(draw);
  all();
  dark.addEventListener("change", all);
})();
