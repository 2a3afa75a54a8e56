"use strict";
// What a page shows comes from the element #data alone (pahq/report/page.py says what is in it). No text is ever read as HTML.
const DATA = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const edges = DATA.edges;
const SWEEP = DATA.sweep; // of several circuits: the name and the steps of what the slider goes along (sweep.js)
const faces = (edge) => edge.steps || [edge]; // what an edge is, at every step
const sizes = (edge) => [edge.a, edge.b].map((fact) => (fact && fact.effect != null ? Math.abs(fact.effect) : 0));
const strength = (edge) => Math.max(...sizes(edge));
const all = edges.flatMap((edge) => faces(edge).filter((face) => face.here !== false).flatMap(sizes));
const [largest, smallest] = all.reduce(([most, least], one) => [Math.max(most, one), one > 0 ? Math.min(least, one) : least], [0, Infinity]);
let at = 0; // the step that is shown

function take(step) {
  at = step;
  [...edges, ...DATA.direct].forEach((edge) => Object.assign(edge, edge.steps[step]));
}
if (SWEEP) take(0);
const LETTERS = { q: "into queries", k: "into keys", v: "into values", other: "into MLPs and logits" };
const SIDES = { a: "only in A", b: "only in B", both: "in both" };
const MARKS = { hit: "published, found", extra: "not published", missed: "published, not found" };
const shown = (value) => (value == null ? "" : Number(value).toPrecision(4).replace(/\.?0+$/, "").replace(/\.?0+e/, "e"));

function make(tag, text, ...classes) {
  const element = document.createElement(tag);
  if (text != null) element.textContent = text;
  element.classList.add(...classes);
  return element;
}

function head({ title, notes }) {
  byId("title").textContent = title;
  byId("notes").textContent = notes.join(" ");
}
head(DATA);

// ---- the graph ----------------------------------------------------------------------------------------------------

function elements() {
  const found = DATA.boxes.map((box) => ({ data: { ...box, id: box.name }, position: { x: box.x, y: box.y }, classes: box.kind + (box.used ? "" : " unused") }));
  DATA.slots.forEach((slot) => found.push({ data: { ...slot, id: "slot " + slot.name }, position: { x: slot.x, y: slot.y }, classes: "slot " + slot.letter + (slot.used ? "" : " unused"), selectable: false }));
  DATA.labels.forEach(([text, x, y], i) => found.push({ data: { id: "label " + i, label: text }, position: { x: x + 20, y }, classes: "layer", selectable: false }));
  edges.forEach(({ steps, ...edge }, i) => found.push({ data: { ...edge, id: "edge " + i, number: i, w: width(edge) }, classes: [edge.letter, edge.side, edge.mark].filter(Boolean).join(" ") }));
  return found;
}

function width(edge) {
  if (edge.mark === "missed") return 1;
  const widest = edges.length > 200 ? 3 : 4.5;
  return largest ? 0.6 + (widest - 0.6) * Math.sqrt(strength(edge) / largest) : 1.2;
}

function turn(element, name, on) {
  if (element.hasClass(name) !== on) element.toggleClass(name, on); // Cytoscape.js styles anew whatever it is told to toggle
}

function style() {
  const look = getComputedStyle(document.documentElement);
  const colour = (name) => look.getPropertyValue("--" + name).trim();
  const opacity = edges.length > 200 ? 0.6 : 0.85;
  const sheet = [
    { selector: "node", style: { shape: "round-rectangle", width: "data(width)", height: "data(height)", label: "data(label)", "font-size": 8, "text-valign": "center", color: colour("ink"), "background-color": colour("paper"), "border-width": 1.1, "border-color": colour("ink"), "font-family": "system-ui, sans-serif", "overlay-opacity": 0 } },
    { selector: "node.unused", style: { "border-color": colour("unused"), color: colour("pale"), "border-width": 0.6 } },
    { selector: "node.bar", style: { "border-width": 0, "background-color": colour("faint"), label: "" } },
    { selector: "node.layer", style: { "background-opacity": 0, "border-width": 0, width: 40, height: 12, color: colour("faint"), events: "no" } },
    { selector: "node.slot", style: { "font-size": 6.5, color: colour("paper"), "border-width": 0, events: "no" } },
    ...["q", "k", "v"].map((letter) => ({ selector: "node.slot." + letter, style: { "background-color": colour(letter) } })),
    { selector: "node.slot.unused", style: { "background-color": colour("empty"), color: colour("pale"), "border-width": 0.5 } },
    { selector: "edge", style: {
        width: "data(w)", opacity, "line-color": colour("other"), "target-arrow-color": colour("other"), "target-arrow-shape": "triangle", "arrow-scale": 0.55,
        "curve-style": "unbundled-bezier", "edge-distances": "endpoints", "control-point-distances": (e) => e.data("distances"), "control-point-weights": (e) => e.data("weights"),
        "source-endpoint": (e) => e.data("start").map((one) => one + "px").join(" "), "target-endpoint": (e) => e.data("end").map((one) => one + "px").join(" "), "overlay-opacity": 0 } },
    { selector: "edge.extra", style: { "line-style": "dotted" } },
    { selector: "edge.missed", style: { "line-style": "dashed", opacity: 0.6 } },
  ];
  for (const letter of ["q", "k", "v"]) sheet.push({ selector: "edge." + letter, style: { "line-color": colour(letter), "target-arrow-color": colour(letter) } });
  for (const [side, name] of [["a", "q"], ["b", "v"], ["both", "both"]]) sheet.push({ selector: "edge." + side, style: { "line-color": colour(name), "target-arrow-color": colour(name) } });
  sheet.push(
    { selector: ".away", style: { display: "none" } },
    { selector: "edge.dim", style: { opacity: 0.08 } },
    { selector: "node.chosen", style: { "border-color": colour("chosen"), "border-width": 3 } },
    { selector: "edge.chosen", style: { opacity: 1, "z-index": 9, "underlay-color": colour("chosen"), "underlay-opacity": 0.5, "underlay-padding": 2 } },
  );
  return sheet;
}

const cy = cytoscape({ container: byId("graph"), elements: elements(), style: style(), layout: { name: "preset" }, autoungrabify: true, boxSelectionEnabled: false, minZoom: 0.05, maxZoom: 8, textureOnViewport: edges.length > 300, hideLabelsOnViewport: false, pixelRatio: edges.length > 300 ? 1 : "auto" });
window.explorer = cy;
cy.fit(undefined, 12);
cy.on("resize", () => cy.fit(undefined, 12));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => cy.style(style()));

// ---- filters ------------------------------------------------------------------------------------------------------

const state = { least: 0, letters: new Set(Object.keys(LETTERS)), sides: new Set(Object.keys(SIDES)), marks: new Set(Object.keys(MARKS)), from: 0, to: DATA.layers - 1 };
const kind = (edge) => edge.letter || "other";

function visible(edge) {
  const inside = (layer) => layer < 0 || layer >= DATA.layers || (layer >= state.from && layer <= state.to);
  return edge.here !== false && (edge.mark === "missed" || strength(edge) >= state.least) && state.letters.has(kind(edge)) && (!edge.side || state.sides.has(edge.side)) && (!edge.mark || state.marks.has(edge.mark)) && edge.layers.every(inside);
}

function apply() {
  let count = 0;
  cy.batch(() => cy.edges().forEach((line) => {
    const there = visible(edges[line.data("number")]);
    count += there;
    turn(line, "away", !there);
  }));
  const [lines, slots] = [edges, DATA.direct].map((list) => list.filter((edge) => edge.here !== false).length.toLocaleString("en"));
  byId("count").textContent = count.toLocaleString("en") + " of " + lines + " lines" + (DATA.direct.length ? ", " + slots + " Direct edges as slots" : "");
  byId("least-value").textContent = state.least ? shown(state.least) : "0 (all)";
  choose(chosen);
}

function boxes(place, names, held, colour, mark) {
  for (const [name, words] of Object.entries(names)) {
    const label = make("label"), box = make("input");
    box.type = "checkbox";
    box.checked = true;
    box.addEventListener("change", () => { held[box.checked ? "add" : "delete"](name); apply(); });
    const swatch = make("span", null, "swatch");
    swatch.style.borderTopColor = "var(--" + colour(name) + ")";
    if (mark) swatch.classList.add(name);
    label.append(box, swatch, words);
    byId(place).append(label);
  }
}

const only = (names, test) => Object.fromEntries(Object.entries(names).filter(([name]) => edges.some((edge) => test(edge).includes(name))));
boxes("letters", only(LETTERS, (edge) => [kind(edge)]), state.letters, (name) => (DATA.diff ? "faint" : name));
if (DATA.diff) boxes("sides", SIDES, state.sides, (name) => ({ a: "q", b: "v", both: "both" })[name]);
boxes("marks", only(MARKS, (edge) => faces(edge).map((face) => face.mark)), state.marks, () => "ink", true);
for (const [id, value] of [["from", 0], ["to", DATA.layers - 1]]) {
  for (let layer = 0; layer < DATA.layers; layer++) byId(id).append(new Option(layer, layer, layer === value, layer === value));
  byId(id).addEventListener("change", (event) => { state[id] = Number(event.target.value); apply(); });
}
byId("least-name").textContent = DATA.measure;
byId("least").addEventListener("input", (event) => {
  const share = event.target.value / 1000; // by a logarithm: effects differ by powers of ten
  state.least = share && largest ? smallest * Math.pow(largest / smallest, share) : 0;
  apply();
});
byId("reset").addEventListener("click", () => {
  byId("least").value = state.least = 0;
  document.querySelectorAll("#filters input[type=checkbox]").forEach((box) => { if (!box.checked) box.click(); });
  [state.from, state.to] = [0, DATA.layers - 1];
  byId("from").value = state.from;
  byId("to").value = state.to;
  apply();
});

// ---- what is known of an edge or a node -----------------------------------------------------------------------------

function facts(edge) {
  const table = make("table");
  const row = (name, value) => { if (value == null || value === "") return; const line = make("tr"); line.append(make("th", name), make("td", value)); table.append(line); };
  for (const [side, fact] of [["a", edge.a], ["b", edge.b]]) {
    if (!fact) { if (DATA.diff && !edge.direct) row(side.toUpperCase(), "not tested"); continue; }
    if (DATA.diff) row(side.toUpperCase(), fact.kept ? "kept" : "removed");
    row(DATA.measure, shown(fact.effect));
    row("margin to the threshold", shown(fact.margin));
    row("decided in", fact.precision);
    row(DATA.measure === "score" ? "rank" : "test number", fact.order);
  }
  if (SWEEP) row("kept at " + SWEEP.name, SWEEP.steps.filter((_, i) => edge.steps[i].kept).map((step) => step.label).join(", "));
  if (edge.side) row("", SIDES[edge.side]);
  if (edge.mark) row("", MARKS[edge.mark]);
  return table;
}

const tip = byId("tip");
cy.on("mouseover", "edge", (event) => {
  const edge = edges[event.target.data("number")];
  tip.replaceChildren(make("b", edge.name), facts(edge));
  tip.hidden = false;
});
cy.on("mousemove", (event) => {
  if (tip.hidden || !event.renderedPosition) return;
  const { x, y } = event.renderedPosition, top = byId("graph").offsetTop;
  tip.style.left = Math.min(x + 14, byId("graph").clientWidth - tip.offsetWidth - 6) + "px";
  tip.style.top = Math.max(Math.min(y + top + 14, top + byId("graph").clientHeight - tip.offsetHeight - 6), 0) + "px";
});
cy.on("mouseout", "edge", () => { tip.hidden = true; });

let chosen = null; // null, {node: name}, {edge: number} or {path: numbers}
const fed = (edge) => edge.feeds; // nodes that are computed from what the edge enters
const into = (name) => edges.filter((edge) => visible(edge) && (edge.target === name || fed(edge).includes(name)));
const outOf = (name) => edges.filter((edge) => visible(edge) && edge.source === name);

function choose(what) {
  chosen = what;
  const marked = what == null ? [] : what.node != null ? [...into(what.node), ...outOf(what.node)] : (what.path || [what.edge]).map((i) => edges[i]);
  const numbers = new Set(marked.map((edge) => edges.indexOf(edge)));
  cy.batch(() => {
    cy.nodes(".chosen").removeClass("chosen");
    cy.edges().forEach((line) => { turn(line, "chosen", numbers.has(line.data("number"))); turn(line, "dim", what != null && !numbers.has(line.data("number"))); });
    if (what && what.node != null) cy.getElementById(what.node).addClass("chosen");
  });
  describe(what);
  listPaths();
}

function describe(what) {
  const place = byId("chosen");
  byId("chosen-name").textContent = what == null ? "Node" : what.node != null ? what.node : what.path ? "Path" : edges[what.edge].name;
  if (what == null) { place.replaceChildren(make("p", "Click a node for its edges, an edge for its numbers.", "faint")); return; }
  if (what.node == null) { place.replaceChildren(...(what.path ? what.path.map((i) => line(edges[i])) : [facts(edges[what.edge])])); return; }
  const parts = [];
  const classes = Object.entries(DATA.classes).filter(([, nodes]) => nodes.includes(what.node)).map(([name]) => name);
  if (DATA.published) {
    const count = edges.filter((edge) => (edge.mark === "hit" || edge.mark === "missed") && (edge.source === what.node || fed(edge).includes(what.node) || edge.target === what.node)).length;
    parts.push(make("p", "Published circuit: " + (classes.length ? classes.join(", ") : "no class of its own") + "; " + count + " of its edges enter or leave here."));
  }
  for (const [words, list] of [["in", into(what.node)], ["out", outOf(what.node)]]) {
    parts.push(make("p", list.length + (list.length === 1 ? " edge " : " edges ") + words, "faint"), ...list.sort((x, y) => strength(y) - strength(x)).map(line));
  }
  const direct = DATA.direct.filter((edge) => edge.here !== false && edge.feeds.includes(what.node) || edge.target === what.node);
  if (direct.length) parts.push(make("p", "Direct edges", "faint"), ...direct.map((edge) => make("div", edge.name + "  " + (edge.a || edge.b ? shown(strength(edge)) : ""))));
  place.replaceChildren(...parts);
}

function line(edge) {
  const found = make("div", edge.name + (strength(edge) ? "  " + shown(strength(edge)) : ""), "edge");
  found.addEventListener("click", () => choose({ edge: edges.indexOf(edge) }));
  return found;
}

cy.on("tap", "edge", (event) => choose({ edge: event.target.data("number") }));
cy.on("tap", "node", (event) => choose({ node: event.target.id() }));
cy.on("tap", (event) => { if (event.target === cy) choose(null); });
