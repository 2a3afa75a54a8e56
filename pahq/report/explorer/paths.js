// Search by name, shortest paths, and the circuit as text. Reads what explorer.js made.
byId("names").append(...DATA.boxes.filter((box) => box.used && box.label).map((box) => new Option(box.name)), ...edges.map((edge) => new Option(edge.name)));
byId("find").addEventListener("input", (event) => {
  const text = event.target.value.trim();
  if (!text) { choose(null); return; }
  const box = DATA.boxes.find((one) => one.name === text && one.label), number = edges.findIndex((edge) => edge.name === text);
  if (box) choose({ node: text });
  else if (number >= 0) choose({ edge: number });
  else {
    const some = edges.map((edge, i) => [edge, i]).filter(([edge]) => visible(edge) && edge.name.includes(text)).map(([, i]) => i);
    if (some.length) choose({ path: some });
    else { choose(null); byId("chosen").replaceChildren(make("p", "Nothing is called " + text + ".", "faint")); }
  }
});

const MOST = 8; // paths of a list
const ends = (edge) => (edge.target === "logits" ? ["logits"] : edge.feeds);

function ways(starts, goal, live) {
  // Path by path from the starts on, the shortest first; of equal length those whose weakest edge is strongest.
  const leaving = new Map(), reaching = new Set([goal]);
  live.forEach((edge) => leaving.set(edge.source, [...(leaving.get(edge.source) || []), edge]));
  for (let before = -1; before !== reaching.size; ) {
    before = reaching.size;
    live.forEach((edge) => { if (ends(edge).some((at) => reaching.has(at))) reaching.add(edge.source); });
  }
  let open = starts.filter((at) => reaching.has(at)).map((at) => ({ at, way: [], weakest: Infinity }));
  const found = [];
  while (open.length && found.length < MOST) {
    const next = [];
    for (const one of open) for (const edge of leaving.get(one.at) || []) for (const at of ends(edge)) {
      if (!reaching.has(at)) continue;
      const step = { at, way: [...one.way, edge], weakest: Math.min(one.weakest, strength(edge)) };
      (at === goal ? found : next).push(step);
    }
    open = next.sort((x, y) => y.weakest - x.weakest).slice(0, 500);
  }
  return found.sort(shorter).slice(0, MOST);
}

const shorter = (x, y) => x.way.length - y.way.length || y.weakest - x.weakest;

function paths(through) {
  const live = edges.filter((edge) => visible(edge) && edge.mark !== "missed" && edge.online);
  const starts = ["embed", "pos"];
  if (!through) return ways(starts, "logits", live).map((one) => one.way);
  const after = ways([through], "logits", live);
  const whole = ways(starts, through, live).flatMap((one) => after.map((rest) => ({ way: [...one.way, ...rest.way], weakest: Math.min(one.weakest, rest.weakest) })));
  return whole.sort(shorter).slice(0, MOST).map((one) => one.way);
}

let listed = "";
function listPaths() {
  const through = chosen && chosen.node != null && !["embed", "pos", "logits"].includes(chosen.node) ? chosen.node : null;
  const key = JSON.stringify([through, state.least, [...state.letters], [...state.sides], [...state.marks], state.from, state.to, at]);
  if (key === listed) return;
  listed = key;
  const found = paths(through);
  byId("paths-of").textContent = "from the embedding to the logits" + (through ? " through " + through : "") + (found.length ? "" : ": none");
  byId("paths").replaceChildren(...found.map((way) => {
    const via = (edge, i) => edge.receiver + (edge.feeds.length > 1 && way[i + 1] ? " of " + way[i + 1].source : ""); // of heads that share it, which
    const item = make("li", [way[0].source, ...way.map(via)].join(" → "));
    item.addEventListener("click", () => choose({ path: way.map((edge) => edges.indexOf(edge)) }));
    return item;
  }));
}

function kept() {
  const lines = edges.filter((edge) => visible(edge) && edge.mark !== "missed" && edge.side !== "b");
  const ends = new Set(lines.map((edge) => edge.receiver));
  return [...lines, ...DATA.direct.filter((edge) => ends.has(edge.name) && edge.here !== false && edge.side !== "b")].map((edge) => edge.name);
}

function copy(text) {
  const area = make("textarea", text);
  area.value = text;
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  byId("copied").textContent = done ? "copied" : "the browser refused";
  window.copied = text;
}

byId("python").addEventListener("click", () => {
  const { direct_edges, ...shape } = DATA.graph;
  const word = (value) => (value === true ? "True" : value === false ? "False" : String(value));
  const given = Object.entries(shape).map(([name, value]) => name + "=" + word(value)).join(", ");
  copy("import pahq\n\ngraph = pahq.build_graph(pahq.ModelShape(" + given + "), direct_edges=" + word(direct_edges) + ")\nedges = " + JSON.stringify(kept(), null, 1) + "\ncircuit = pahq.Circuit.from_names(graph, edges)\n");
});
byId("json").addEventListener("click", () => copy(JSON.stringify({ graph: DATA.graph, edges: kept() }, null, 1) + "\n"));

if (DATA.diff) {
  byId("parting").hidden = false;
  byId("parting").append(make("h2", "A and B"), ...DATA.diff.map((text) => make("p", text)));
}
