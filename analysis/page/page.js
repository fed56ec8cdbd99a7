// What a report does without a network: folding, downloads, the runs behind points, the table of cells.
(() => {
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];

  // Folding: a link opens the part that it leads to; a print has every part.
  const reveal = id => {
    const place = id && document.getElementById(id);
    for (let at = place; at; at = at.parentElement) if (at.tagName === "DETAILS") at.open = true;
    return place;
  };
  const follow = () => { const place = reveal(decodeURIComponent(location.hash.slice(1))); if (place) place.scrollIntoView(); };
  addEventListener("hashchange", follow);
  document.addEventListener("click", event => { const link = event.target.closest('a[href^="#"]'); if (link) reveal(link.hash.slice(1)); });
  const fold = open => all("details.part").forEach(part => { part.open = open; });
  document.getElementById("unfold")?.addEventListener("click", () => fold(true));
  document.getElementById("fold")?.addEventListener("click", () => fold(false));
  let folded = [];
  addEventListener("beforeprint", () => { folded = all("details:not([open])"); folded.forEach(one => { one.open = true; }); });
  addEventListener("afterprint", () => folded.forEach(one => { one.open = false; }));
  if (location.hash) follow();

  // Downloads: a figure with plain colours on white, a table with its unrounded numbers.
  const save = (name, url) => { const link = document.createElement("a"); link.href = url; link.download = name; link.click(); };
  const title = document.body.dataset.study, named = name => `${title}-${name}`.replace(/[^\w.-]+/g, "_");
  const plain = figure => {
    const copy = figure.querySelector("svg").cloneNode(true), [, , width, height] = copy.getAttribute("viewBox").split(" ");
    copy.setAttribute("width", width); copy.setAttribute("height", height);
    copy.insertAdjacentHTML("afterbegin", `<rect width="${width}" height="${height}" fill="#ffffff"/>`);
    const text = new XMLSerializer().serializeToString(copy);
    return text.replace(/var\(--grid, #8884\)/g, "#dddddd").replace(/var\(--\w+, (#[0-9a-f]{6})\)/g, "$1").replace(/currentColor/gi, "#222222");
  };
  const inline = text => "data:image/svg+xml;charset=utf-8," + encodeURIComponent(text);
  const PIXELS = 4; // of a PNG for each unit of the figure: 1440 wide
  const png = (figure, name) => {
    const image = new Image(), [, , width, height] = figure.querySelector("svg").getAttribute("viewBox").split(" ");
    image.onload = () => {
      const canvas = document.createElement("canvas");
      canvas.width = PIXELS * width; canvas.height = PIXELS * height;
      canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
      save(named(name) + ".png", canvas.toDataURL("image/png"));
    };
    image.src = inline(plain(figure));
  };
  const quoted = text => /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  const csv = table => [...table.tHead.rows, ...table.tBodies[0].rows].map(row => [...row.cells].map(cell => quoted("v" in cell.dataset ? cell.dataset.v : (cell.querySelector(".sr") ?? cell).textContent.trim())).join(",")).join("\n") + "\n";
  document.addEventListener("click", event => {
    const button = event.target.closest("[data-svg], [data-png], [data-csv]");
    if (!button) return;
    const figure = button.closest("figure"), { svg: asSvg, png: asPng, csv: asCsv } = button.dataset;
    if (asSvg) save(named(asSvg) + ".svg", inline(plain(figure)));
    if (asPng) png(figure, asPng);
    if (asCsv) { complete(); save(named(asCsv) + ".csv", "data:text/csv;charset=utf-8," + encodeURIComponent(csv(button.closest("table")))); }
  });

  // A mouse, a finger or the arrow keys show the run behind a point.
  const REACH = 22; // pixels from a touch to the point that it means
  for (const figure of all("figure")) {
    const plot = figure.querySelector(".plot"), points = all("g.tip", figure).map(mark => { const text = mark.querySelector("title"), tip = text.textContent; text.remove(); return { mark, tip }; });
    if (!points.length) continue;
    const bubble = document.createElement("output");
    bubble.className = "bubble"; bubble.hidden = true; figure.append(bubble);
    plot.tabIndex = 0; plot.setAttribute("role", "group"); plot.setAttribute("aria-label", "Points of the figure; arrow keys go from run to run");
    let at = -1;
    const middle = ({ mark }) => { const box = mark.getBoundingClientRect(); return [box.x + box.width / 2, box.y + box.height / 2]; };
    const show = i => {
      at = i; bubble.hidden = i < 0;
      points.forEach(({ mark }, j) => mark.classList.toggle("on", i === j));
      if (i < 0) return;
      const [x, y] = middle(points[i]), box = figure.getBoundingClientRect();
      bubble.textContent = points[i].tip;
      bubble.style.left = Math.max(0, Math.min(x - box.x - bubble.offsetWidth / 2, box.width - bubble.offsetWidth)) + "px";
      bubble.style.top = Math.max(0, y - box.y - bubble.offsetHeight - 10) + "px";
    };
    const near = event => {
      const under = event.target.closest("g.tip");
      if (under) return points.findIndex(({ mark }) => mark === under);
      let best = -1, least = event.pointerType === "mouse" ? 6 : REACH;
      points.forEach((point, i) => { const [x, y] = middle(point), away = Math.hypot(x - event.clientX, y - event.clientY); if (away < least) { least = away; best = i; } });
      return best;
    };
    plot.addEventListener("pointerdown", event => show(near(event)));
    plot.addEventListener("pointermove", event => { if (event.pointerType === "mouse") { const under = event.target.closest("g.tip"); show(under ? points.findIndex(({ mark }) => mark === under) : -1); } });
    plot.addEventListener("pointerleave", event => { if (event.pointerType === "mouse") show(-1); });
    plot.addEventListener("keydown", event => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (event.key === "Escape") show(-1);
      if (!step) return;
      event.preventDefault(); show((at + step + points.length) % points.length);
    });
    plot.addEventListener("blur", () => show(-1));
  }

  // The table of cells: rows beyond the first hundreds are made when the table is opened.
  const table = document.getElementById("celltable");
  const part = table?.closest("details"), body = table?.tBodies[0], heads = table ? [...table.tHead.rows[0].cells] : [];
  const power = (value, digits) => { const [mantissa, exponent] = value.toExponential(digits - 1).split("e"); return `${mantissa.includes(".") ? mantissa.replace(/\.?0+$/, "") : mantissa}e${+exponent}`; };
  const short = v => { for (const [size, unit] of [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "k"]]) if (size <= Math.abs(v) && Math.abs(v) < 999.5 * size) return String(+(v / size).toPrecision(3)) + unit; return v === 0 || (Math.abs(v) >= 1e-3 && Math.abs(v) < 1e3) ? String(+v.toPrecision(3)) : power(v, 2); };
  const written = { count: short, power: v => power(v, 3), ratio: v => String(+v.toPrecision(3)), loss: v => v.toFixed(4), whole: v => v.toFixed(0), time: v => v.toFixed(1) };
  const waiting = JSON.parse(document.getElementById("more-cells")?.textContent || "[]");
  const complete = () => {
    const rows = waiting.splice(0).map(values => {
      const row = document.createElement("tr");
      values.forEach((value, i) => { const cell = row.insertCell(), kind = heads[i].dataset.kind; if (kind) { cell.className = "n"; cell.dataset.v = value ?? ""; } cell.textContent = kind ? (value === null ? "–" : written[kind](value)) : value; });
      return row;
    });
    body?.append(...rows);
  };
  if (!table) return;
  if (part.open) complete();
  part.addEventListener("toggle", complete);
  const key = (row, i) => { const cell = row.cells[i]; return "v" in cell.dataset ? (cell.dataset.v === "" ? Infinity : +cell.dataset.v) : cell.textContent; };
  heads.forEach((head, i) => head.querySelector("button").addEventListener("click", () => {
    complete();
    const up = head.getAttribute("aria-sort") !== "ascending";
    heads.forEach(h => h.setAttribute("aria-sort", "none"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    body.append(...[...body.rows].sort((p, q) => { const a = key(p, i), b = key(q, i); return (a > b ? 1 : a < b ? -1 : 0) * (up ? 1 : -1); }));
  }));
  const filter = document.getElementById("filter"), shown = document.getElementById("shown");
  filter.addEventListener("input", () => {
    complete();
    const wanted = filter.value.trim().toLowerCase(); let n = 0;
    for (const row of body.rows) { row.hidden = !row.textContent.toLowerCase().includes(wanted); n += !row.hidden; }
    shown.textContent = wanted ? `${n} of ${body.rows.length} rows` : "";
  });
})();
