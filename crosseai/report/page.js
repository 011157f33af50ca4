/* The page: its tables, charts, gallery and workbench. Data are in <script type="application/json">;
   text from them is only ever set as text. */
"use strict";

(() => {
  const byId = (id) => document.getElementById(id);
  const read = (id) => JSON.parse(byId(id)?.textContent ?? "null");
  const figures = (value) => value.toFixed(2);

  /** Make an element with attributes and children, which may be text. */
  function element(name, attributes = {}, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }

  /** Call `show` once for each element, when it comes near the window. */
  function whenNear(elements, show) {
    const observer = new IntersectionObserver(
      (entries) => {
        for (const { isIntersecting, target } of entries) {
          if (!isIntersecting) continue;
          observer.unobserve(target);
          show(target);
        }
      },
      { rootMargin: "400px" },
    );
    for (const one of elements) observer.observe(one);
  }

  // ---------------------------------------------------------------------------------- tables

  /** Show the table of the chosen protocol and labels. */
  function switchTables() {
    const [protocol, labels] = [byId("protocol").value, byId("labels").value];
    for (const table of document.querySelectorAll("[data-protocol]")) {
      table.hidden = table.dataset.protocol !== protocol || table.dataset.labels !== labels;
    }
  }

  /** Sort a table's rows by a column: numbers by value, others as text; again: the other way. */
  function sortBy(header) {
    const column = [...header.parentNode.children].indexOf(header);
    const upward = header.getAttribute("aria-sort") !== "ascending";
    const body = header.closest("table").tBodies[0];
    for (const other of header.parentNode.children) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", upward ? "ascending" : "descending");
    const key = ({ cells }) => cells[column].dataset.value ?? cells[column].textContent;
    const rows = [...body.rows].sort(
      (one, other) => key(one) - key(other) || key(one).localeCompare(key(other)),
    );
    body.append(...(upward ? rows : rows.reverse()));
  }

  function setUpTables() {
    for (const control of [byId("protocol"), byId("labels")]) {
      control?.addEventListener("change", switchTables);
    }
    byId("intervals")?.addEventListener("change", ({ target }) =>
      document.body.classList.toggle("intervals", target.checked),
    );
    for (const button of document.querySelectorAll("th button")) {
      button.addEventListener("click", () => sortBy(button.closest("th")));
    }
    if (byId("protocol")) switchTables();
  }

  // ---------------------------------------------------------------------------------- charts

  /** Load the plotting library, which is large, when the first chart comes near. */
  const library = once(() => {
    const script = element("script");
    script.textContent = byId("plotly").textContent;
    document.head.append(script);
  });

  function once(make) {
    let made;
    return () => (made ??= [make()]);
  }

  function setUpCharts() {
    const charts = document.querySelectorAll(".chart");
    const dark = matchMedia("(prefers-color-scheme: dark)");
    const draw = (chart) => {
      library();
      const style = getComputedStyle(document.body);
      const { data, layout } = read(chart.dataset.source);
      const axis = { gridcolor: style.getPropertyValue("--line"), zeroline: false };
      const axes = Object.keys(layout).filter((key) => /^[xy]axis/.test(key));
      const coloured = Object.fromEntries(axes.map((key) => [key, { ...axis, ...layout[key] }]));
      Plotly.react(
        chart,
        data,
        {
          ...layout,
          ...coloured,
          paper_bgcolor: "transparent",
          plot_bgcolor: "transparent",
          font: { color: style.color, family: style.fontFamily },
        },
        { responsive: true, displaylogo: false },
      );
      chart.dataset.drawn = "";
    };
    whenNear(charts, draw);
    dark.addEventListener("change", () => {
      for (const chart of document.querySelectorAll(".chart[data-drawn]")) draw(chart);
    });
  }

  // --------------------------------------------------------------------------------- gallery

  const SVG = "http://www.w3.org/2000/svg";

  /** Draw boxes, each {box, kind}, and polygons over a picture, in pixels of the source image. */
  function overlay(size, shapes) {
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("viewBox", `0 0 ${size[0]} ${size[1]}`);
    svg.setAttribute("preserveAspectRatio", "none");
    for (const { box, polygon, kind, style } of shapes) {
      const shape = document.createElementNS(SVG, polygon ? "polygon" : "rect");
      const [x1, y1, x2, y2] = box ?? [];
      const places = polygon
        ? { points: polygon.join(" ") }
        : { x: x1, y: y1, width: x2 - x1, height: y2 - y1 };
      for (const [key, value] of Object.entries(places)) shape.setAttribute(key, value);
      shape.setAttribute("class", kind);
      if (style) shape.setAttribute("style", style);
      svg.append(shape);
    }
    return svg;
  }

  /** The bytes of a packed map as a map for `boxes`. */
  async function unpacked({ width, height, data }) {
    const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    const values = new Uint8Array(await new Response(stream).arrayBuffer());
    return { values: Float32Array.from(values), width, height };
  }

  /** Colours from black over red and yellow to white, for shares of a map's maximum. */
  function hot(share) {
    return [3 * share, 3 * share - 1, 3 * share - 2].map((v) => 255 * Math.min(Math.max(v, 0), 1));
  }

  /** Paint a map onto a canvas, with the pixels of a mask, if there is one, tinted. */
  function paint(canvas, { values, width, height }, mask) {
    canvas.width = width;
    canvas.height = height;
    const context = canvas.getContext("2d");
    const image = context.createImageData(width, height);
    const highest = values.reduce((one, other) => Math.max(one, other), 1e-12);
    values.forEach((value, at) => {
      const [red, green, blue] = hot(value / highest);
      const tint = mask?.[at] ? 70 : 0;
      image.data.set([red, green + tint, blue + 2 * tint, 255], 4 * at);
    });
    context.putImageData(image, 0, 0);
  }

  function setUpGallery() {
    const gallery = read("gallery");
    if (!gallery) return;
    const pictures = read("pictures");
    const { findings, methods, reference, colours } = gallery;
    const view = byId("view");
    const source = (finding) => `data:image/webp;base64,${pictures[finding.image]}`;
    let shown = [];
    let open = -1;

    /** A picture with boxes over it. */
    function picture(finding, shapes) {
      const image = element("img", { alt: `${finding.image}, ${finding.label}`, loading: "lazy" });
      image.src = source(finding);
      return element("div", { class: "picture" }, image, overlay(finding.size, shapes));
    }

    const truthOf = (finding) => ({ box: finding.truth, kind: "truth" });
    const boxOf = (finding, method) =>
      finding.boxes[method]
        ? [{ box: finding.boxes[method], kind: "found", style: `stroke: ${colours[method]}` }]
        : [];

    function card(finding, method) {
      const caption = element("span", { class: "caption" }, `${finding.label} `);
      caption.append(element("b", {}, figures(finding.iou[method])));
      const made = element("button", { class: "card", type: "button" }, caption);
      made.finding = finding;
      made.method = method;
      return made;
    }

    const fill = (made) =>
      made.prepend(
        picture(made.finding, [truthOf(made.finding), ...boxOf(made.finding, made.method)]),
      );

    function filtered() {
      const method = byId("of").value;
      const label = byId("label").value;
      const outcome = byId("outcome").value;
      const threshold = Number(byId("threshold-of-hits").value);
      const agreement = Number(byId("agreement").value);
      const sign = byId("order").value === "worst" ? 1 : -1;
      return findings
        .filter(
          (finding) =>
            (!label || finding.label === label) &&
            (!outcome || finding.iou[method] >= threshold === (outcome === "hit")) &&
            (agreement === 0 || (finding.agreement ?? -1) >= agreement),
        )
        .sort((one, other) => sign * (one.iou[method] - other.iou[method]));
    }

    function list() {
      shown = filtered();
      const cards = shown.map((finding) => card(finding, byId("of").value));
      byId("count").textContent = `${shown.length} of ${findings.length} findings`;
      byId("cards").replaceChildren(...cards);
      whenNear(cards, fill);
    }

    function extremes() {
      for (const method of methods) {
        const sorted = [...findings].sort((one, other) => other.iou[method] - one.iou[method]);
        const best = sorted.slice(0, 4).map((finding) => card(finding, method));
        const worst = sorted.slice(-4).map((finding) => card(finding, method));
        const row = element("div", { class: "extremes" });
        row.append(element("h3", {}, method), ...best, element("span", { class: "gap" }), ...worst);
        byId("extremes").append(row);
        whenNear([...best, ...worst], fill);
      }
    }

    // ------------------------------------------------------------------------------ one finding

    /** Everything known of a finding, and its workbench. */
    async function show(finding) {
      byId("title").textContent = `${finding.image} · ${finding.label}`;
      const legend = methods.map((method) => {
        const text = finding.boxes[method]
          ? `${method}: IoU ${figures(finding.iou[method])}`
          : `${method}: no box`;
        return element("li", { style: `--colour: ${colours[method]}` }, text);
      });
      legend.unshift(element("li", { class: "truth" }, "ground truth"));
      byId("legend").replaceChildren(...legend);
      byId("told").textContent =
        finding.agreement === null
          ? ""
          : `Agreement of the two explanations inside the box of ${reference}: ` +
            `${figures(finding.agreement)}.`;
      const all = methods.flatMap((method) => boxOf(finding, method));
      const outline = (finding.outline ?? []).map((polygon) => ({ polygon, kind: "outline" }));
      const panels = [named("radiograph", picture(finding, [truthOf(finding)]))];
      panels.push(named("boxes", picture(finding, [...outline, truthOf(finding), ...all])));
      byId("panels").replaceChildren(...panels);
      byId("workbench").hidden = true;
      if (!finding.maps) return;
      const maps = await Promise.all(finding.maps.map(unpacked));
      if (byId("title").textContent !== `${finding.image} · ${finding.label}`) return;
      if (maps.length === 1) {
        panels.splice(1, 0, named("map", mapped(finding, maps[0])));
      } else {
        const [heatmap, gradient] = maps;
        const { width, height } = gradient;
        const enlarged = boxes.enlarge(heatmap, width, height);
        const fused = boxes.fuse(enlarged, gradient, gallery.settings.t);
        panels.splice(1, 0, named("heatmap", mapped(finding, enlarged)));
        panels.splice(2, 0, named("gradient map", mapped(finding, gradient)));
        panels.splice(3, 0, named("fused map", mapped(finding, fused)));
        if (finding.workbench) work(finding, enlarged, gradient);
      }
      byId("panels").replaceChildren(...panels);
    }

    const named = (name, content) =>
      element("figure", {}, content, element("figcaption", {}, name));

    function mapped(finding, map) {
      const canvas = element("canvas", { role: "img", "aria-label": "map" });
      paint(canvas, map);
      return element("div", { class: "picture" }, canvas, overlay(finding.size, [truthOf(finding)]));
    }

    /** Redraw the fused map, its mask and the box of Algorithm 1 as the sliders move. */
    function work(finding, heatmap, gradient) {
      const bench = byId("workbench");
      const canvas = bench.querySelector("canvas");
      const inputs = ["t", "threshold", "candidates"].map((name) => byId(`set-${name}`));
      const redraw = () => {
        const [t, threshold, candidates] = inputs.map((input) => Number(input.value));
        inputs.forEach((input) => (input.nextElementSibling.value = input.value));
        const result = boxes.solve(heatmap, gradient, {
          ...gallery.settings,
          t,
          threshold,
          candidates,
        });
        paint(canvas, result.map, result.mask);
        const [across, down] = [
          finding.size[0] / result.map.width,
          finding.size[1] / result.map.height,
        ];
        const box = result.box?.map((value, at) => value * (at % 2 ? down : across));
        const shapes = [truthOf(finding)];
        if (box) shapes.push({ box, kind: "found", style: `stroke: ${colours[reference]}` });
        bench.querySelector("svg")?.remove();
        canvas.after(overlay(finding.size, shapes));
        const overlap = box ? boxes.iou(box, finding.truth) : 0;
        bench.dataset.box = JSON.stringify(result.box);
        byId("result").textContent = box ? `IoU ${figures(overlap)}` : "no box: the mask is empty";
      };
      inputs.forEach((input) => (input.oninput = redraw));
      byId("reset").onclick = () => {
        inputs.forEach((input) => (input.value = gallery.settings[input.id.slice(4)]));
        redraw();
      };
      byId("reset").click();
      bench.hidden = false;
    }

    function openAt(place) {
      open = Math.min(Math.max(place, 0), shown.length - 1);
      byId("place").textContent = `${open + 1} of ${shown.length}`;
      if (!view.open) view.showModal();
      return show(shown[open]);
    }

    for (const id of ["of", "label", "outcome", "threshold-of-hits", "agreement", "order"]) {
      byId(id).addEventListener("input", list);
    }
    byId("gallery-section").addEventListener("click", ({ target }) => {
      const finding = target.closest(".card")?.finding;
      if (!finding) return;
      if (!shown.includes(finding)) shown = [...findings];
      openAt(shown.indexOf(finding));
    });
    byId("previous").onclick = () => openAt(open - 1);
    byId("next").onclick = () => openAt(open + 1);
    byId("close").onclick = () => view.close();
    view.addEventListener("keydown", (event) => {
      if (event.target.matches("input")) return;
      const step = { ArrowRight: 1, ArrowLeft: -1, j: 1, k: -1 }[event.key];
      if (step) openAt(open + step);
    });
    byId("cards").addEventListener("keydown", (event) => {
      const cards = [...byId("cards").children];
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      const next = step && cards[cards.indexOf(document.activeElement) + step];
      if (next) next.focus();
    });
    extremes();
    list();
  }

  setUpTables();
  setUpCharts();
  setUpGallery();
})();
