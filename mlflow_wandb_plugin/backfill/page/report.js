// Sorts and filters the table and draws the curves. All text from runs becomes text nodes.
"use strict";
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const WIDTH = 280, HEIGHT = 120, LEFT = 64, RIGHT = 8, TOP = 8, BOTTOM = 18;
  const OPEN_AT_FIRST = 12;
  const HOMES = { wandb: "source", mlflow: "target" };
  const names = JSON.parse(document.getElementById("homes").textContent);
  const curves = JSON.parse(document.getElementById("curves").textContent);
  const body = document.querySelector("tbody");
  const rows = Array.from(body.rows);

  function svg(name, attributes, text) {
    const element = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text !== undefined) element.textContent = text;
    return element;
  }
  function short(value) {
    if (value === null) return "not a finite number";
    return Number(value.toPrecision(4)).toString();
  }
  function range(values) {
    let low = Infinity, high = -Infinity;
    for (const value of values) if (value !== null) { low = Math.min(low, value); high = Math.max(high, value); }
    return [low, high];
  }
  function scale([low, high], from, to) {
    const size = high - low;
    return value => (size > 0 && isFinite(size) ? from + (value - low) / size * (to - from) : (from + to) / 2);
  }
  function line(curve, x, y, home) {
    const parts = document.createDocumentFragment();
    let path = "", open = false, only = null;
    curve.x.forEach((step, at) => {
      const value = curve.y[at];
      if (value === null) { open = false; return; }
      path += (open ? "L" : "M") + x(step).toFixed(1) + " " + y(value).toFixed(1);
      only = open ? null : [x(step), y(value)];
      open = true;
    });
    if (path) parts.append(svg("path", { d: path, class: home }));
    if (only) parts.append(svg("circle", { cx: only[0], cy: only[1], r: home === "wandb" ? 4 : 2, class: home }));
    return parts;
  }
  function chart(drawn, all) {
    const xs = range(all.flatMap(curve => curve.x)), ys = range(all.flatMap(curve => curve.y));
    const picture = svg("svg", { width: WIDTH, height: HEIGHT, role: "img" });
    if (!isFinite(xs[0]) || !isFinite(ys[0])) {
      picture.append(svg("text", { x: LEFT, y: HEIGHT / 2 }, "no finite values"));
      return picture;
    }
    const x = scale(xs, LEFT, WIDTH - RIGHT), y = scale(ys, HEIGHT - BOTTOM, TOP);
    picture.append(svg("path", { class: "axis", d: `M${LEFT} ${TOP}V${HEIGHT - BOTTOM}H${WIDTH - RIGHT}` }));
    picture.append(svg("text", { x: LEFT - 4, y: TOP + 8, "text-anchor": "end" }, short(ys[1])));
    if (ys[1] > ys[0]) picture.append(svg("text", { x: LEFT - 4, y: HEIGHT - BOTTOM, "text-anchor": "end" }, short(ys[0])));
    picture.append(svg("text", { x: LEFT, y: HEIGHT - 5 }, "step " + xs[0]));
    if (xs[1] > xs[0]) picture.append(svg("text", { x: WIDTH - RIGHT, y: HEIGHT - 5, "text-anchor": "end" }, String(xs[1])));
    for (const [home, curve] of Object.entries(drawn)) picture.append(line(curve, x, y, home));
    return picture;
  }
  function caption(title, drawn, note) {
    const text = document.createElement("figcaption");
    const name = document.createElement("b");
    name.textContent = title;
    text.append(name, note ? ": " + note : "");
    for (const [home, curve] of Object.entries(drawn)) {
      const key = document.createElement("span");
      key.className = "key-" + home;
      key.textContent = names[HOMES[home]];
      text.append(document.createElement("br"), key, `: ${curve.n.toLocaleString("en")} points, last ${short(curve.last)}`);
    }
    return text;
  }
  function figure(one, drawn, both) {
    const element = document.createElement("figure");
    // Two that are drawn apart have one scale.
    element.append(chart(drawn, both || Object.values(drawn)), caption(one.key, drawn, one.note));
    return element;
  }
  const drawings = new Map();
  function figures(run) {
    const cell = document.createElement("td");
    for (const one of curves[run] || []) {
      const wandb = one.source, mlflow = one.target === "same" ? one.source : one.target;
      if (!mlflow) cell.append(figure(one, { wandb }));
      else if (one.together) cell.append(figure(one, { wandb, mlflow }));
      else cell.append(figure(one, { wandb }, [wandb, mlflow]), figure(one, { mlflow }, [wandb, mlflow]));
    }
    return cell;
  }
  function show(details) {
    const row = details.closest("tr");
    if (!drawings.has(row) && details.open) {
      const below = document.createElement("tr"), cell = figures(details.dataset.run);
      cell.colSpan = row.cells.length;
      below.className = "drawing";
      below.append(cell);
      row.after(below);
      drawings.set(row, below);
    }
    if (drawings.has(row)) drawings.get(row).hidden = row.hidden || !details.open;
  }
  document.addEventListener("toggle", event => {
    if (event.target.matches("details[data-run]")) show(event.target);
  }, true);
  if (rows.length <= OPEN_AT_FIRST) document.querySelectorAll("details[data-run]").forEach(one => { one.open = true; });

  const heads = Array.from(document.querySelectorAll("thead th"));
  heads.forEach((head, column) => {
    const button = head.querySelector("button");
    if (!button) return;
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = row => row.cells[column].dataset.sort ?? row.cells[column].textContent;
      const numeric = head.dataset.kind === "number";
      const order = (a, b) => numeric ? Number(key(a)) - Number(key(b)) : key(a).localeCompare(key(b), undefined, { numeric: true });
      rows.sort((a, b) => down ? order(b, a) : order(a, b));
      body.append(...rows.flatMap(row => drawings.has(row) ? [row, drawings.get(row)] : [row]));
    });
  });

  const form = document.querySelector("form");
  const shown = document.getElementById("shown");
  const texts = new Map(rows.map(row => [row, row.textContent.toLowerCase()]));
  function filter() {
    const words = form.elements.words.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const row of rows) {
      const fits = words.every(word => texts.get(row).includes(word))
        && Array.from(form.querySelectorAll("select")).every(select => !select.value || row.dataset[select.name] === select.value);
      row.hidden = !fits;
      const details = row.querySelector("details[data-run]");
      if (details) show(details);
      count += fits ? 1 : 0;
    }
    shown.textContent = `${count.toLocaleString("en")} of ${rows.length.toLocaleString("en")} runs`;
  }
  form.addEventListener("input", filter);
  form.addEventListener("submit", event => event.preventDefault());
  form.hidden = false;
  filter();
})();
