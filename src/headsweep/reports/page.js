"use strict";
(async () => {
  const unpacked = (id) => {
    const bytes = Uint8Array.from(atob(document.getElementById(id).textContent), (letter) => letter.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  };
  document.getElementById("old").hidden = "DecompressionStream" in window;
  const [data, code] = await Promise.all([unpacked("data"), unpacked("plotly")]);
  const script = document.createElement("script");
  script.textContent = code;
  document.head.append(script);
  const { charts, cells } = JSON.parse(data);
  const drawn = new Map();
  const PAPER = 640; // pixels: narrower than A4 and Letter within their margins
  const onPaper = () => document.documentElement.classList.contains("paper");
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  // What light, dark and a narrow screen change about a chart.
  const themed = (layout) => {
    const axis = (own) => ({ ...own, gridcolor: colour("--line"), zerolinecolor: colour("--line"), linecolor: colour("--line") });
    return {
      ...layout,
      xaxis: axis(layout.xaxis),
      yaxis: axis(layout.yaxis),
      autosize: true,
      margin: { l: 60, r: 20, t: 40, b: 50, ...layout.margin },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: colour("--ink"), family: "system-ui, sans-serif" },
      hoverlabel: { bgcolor: colour("--shade"), font: { color: colour("--ink") } },
    };
  };
  // On a phone the names of points would lie on each other: a tap shows one.
  const narrow = matchMedia("(max-width: 40rem)");
  const fitted = (trace) => (narrow.matches && trace.mode === "markers+text" ? { ...trace, mode: "markers" } : trace);
  const draw = (id, spec) => {
    drawn.set(id, spec);
    // Plotly forgets a height that only stands in the layout as soon as the window is resized.
    document.getElementById(id).style.height = `${spec.layout.height}px`;
    const layout = { ...themed(spec.layout), ...(onPaper() ? { autosize: false, width: PAPER } : {}) };
    return Plotly.react(id, spec.data.map(fitted), layout, { responsive: true, displaylogo: false, displayModeBar: false });
  };
  const redraw = () => drawn.forEach((spec, id) => draw(id, spec));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  narrow.addEventListener("change", redraw);

  const element = (name, text) => {
    const made = document.createElement(name);
    made.textContent = text;
    return made;
  };
  const fill = (table, head, rows) => {
    const row = (texts, name) => {
      const made = document.createElement("tr");
      texts.forEach((text, i) => made.append(element(i ? name : "th", text)));
      return made;
    };
    const top = document.createElement("thead");
    top.append(row(head, "th"));
    const body = document.createElement("tbody");
    rows.forEach((texts) => body.append(row(texts, "td")));
    table.replaceChildren(top, body);
  };

  const optional = (id, spec) => {
    const place = document.getElementById(id);
    place.hidden = !spec;
    document.getElementById(`no-${id}`).hidden = Boolean(spec);
    if (spec) return draw(id, spec);
    drawn.delete(id);
    return Plotly.purge(place);
  };
  const show = (name) => {
    const cell = cells[name];
    document.getElementById("order").textContent = cell.order;
    document.getElementById("order").hidden = !cell.heads;
    optional("heads", cell.heads);
    optional("path", cell.path);
    fill(document.getElementById("figures"), ["stage", ...cell.figures.columns], cell.figures.rows);
    const scores = document.getElementById("scores");
    if (cell.heads) {
      const map = cell.heads.data[0];
      const rows = map.customdata.map((row, layer) => [String(layer), ...row.map((fate, head) => {
        const score = map.showscale ? ` ${Number(map.z[layer][head]).toPrecision(3)}` : "";
        return fate + score;
      })]);
      fill(scores, ["layer", ...map.customdata[0].map((_, head) => `${cell.heads.layout.xaxis.title.text} ${head}`)], rows);
    } else scores.replaceChildren();
    const list = document.getElementById("details");
    list.replaceChildren();
    Object.entries(cell.details).forEach(([term, text]) => list.append(element("dt", term), element("dd", text)));
  };

  const sort = (head) => {
    const table = head.closest("table");
    const column = [...head.parentNode.children].indexOf(head);
    const rising = head.getAttribute("aria-sort") !== "ascending";
    [...head.parentNode.children].forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", rising ? "ascending" : "descending");
    const value = (row) => row.children[column].dataset.value;
    const order = (a, b) => {
      const [x, y] = [value(a), value(b)];
      const numbers = x !== "" && y !== "" && !isNaN(x) && !isNaN(y);
      return (numbers ? x - y : x.localeCompare(y)) * (rising ? 1 : -1);
    };
    const body = table.tBodies[0];
    body.append(...[...body.rows].sort(order));
  };
  document.querySelectorAll(".sortable thead th").forEach((head) => {
    head.querySelector("button").addEventListener("click", () => sort(head));
  });

  // A shadow where a table goes on beyond its frame, on either side.
  const shade = (box) => {
    const beyond = box.scrollWidth - box.clientWidth - box.scrollLeft;
    box.parentNode.classList.toggle("more", beyond > 1);
    box.parentNode.classList.toggle("moved", box.scrollLeft > 1);
  };
  const watch = new ResizeObserver((seen) => seen.forEach(({ target }) => shade(target.closest(".scroll"))));
  document.querySelectorAll(".scroll").forEach((box) => {
    box.addEventListener("scroll", () => shade(box), { passive: true });
    watch.observe(box);
    watch.observe(box.firstElementChild);
  });

  // A chart drawn where nothing shows has no width: it gets one when its part is opened. Print opens all.
  const parts = [...document.querySelectorAll("details")];
  const fit = () => drawn.forEach((_, id) => {
    const place = document.getElementById(id);
    if (place.offsetWidth) Plotly.Plots.resize(place);
  });
  parts.forEach((part) => part.addEventListener("toggle", fit));
  let shut = [];
  addEventListener("beforeprint", () => {
    shut = parts.filter((part) => !part.open);
    shut.forEach((part) => { part.open = true; });
    document.documentElement.classList.add("paper"); // light, whatever the screen is
    redraw();
  });
  addEventListener("afterprint", () => {
    shut.forEach((part) => { part.open = false; });
    document.documentElement.classList.remove("paper");
    redraw();
  });

  Object.entries(charts).forEach(([id, spec]) => draw(id, spec));
  const select = document.getElementById("cell");
  select.addEventListener("change", () => show(select.value));
  select.value = Object.keys(cells).find((name) => cells[name].heads) ?? select.value;
  show(select.value);
})();
