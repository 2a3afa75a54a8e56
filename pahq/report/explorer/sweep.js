// A slider over circuits of several thresholds or sizes. Lines come and go; places stay, and so do a choice and filters.
if (SWEEP) {
  const slider = byId("step"), labels = SWEEP.steps.map((step) => step.label);
  const there = edges.map((edge) => edge.steps.map((face) => face.kept));
  byId("sweep").hidden = false;
  byId("step-name").textContent = SWEEP.name;
  slider.max = labels.length - 1;
  byId("ticks").append(...labels.map((label, i) => new Option(label, i)));

  const show = (step) => {
    take(step);
    head(SWEEP.steps[step]);
    const entered = new Set(edges.filter((edge) => edge.kept).map((edge) => edge.receiver)), used = new Set(SWEEP.steps[step].used);
    cy.batch(() => {
      cy.edges().forEach((line) => {
        const edge = edges[line.data("number")];
        if (line.data("w") !== width(edge)) line.data("w", width(edge)); // what changes is drawn anew
        for (const mark of Object.keys(MARKS)) turn(line, mark, edge.mark === mark);
      });
      cy.nodes(".node").forEach((node) => turn(node, "unused", !used.has(node.id())));
      cy.nodes(".slot").forEach((node) => turn(node, "unused", !entered.has(node.data("name"))));
    });
    slider.value = step;
    byId("step-label").textContent = labels[step];
    slider.setAttribute("aria-valuetext", SWEEP.name + " " + labels[step]);
    byId("step-change").textContent = step ? change(step) : "the first of " + labels.length;
    apply();
  };

  const change = (step) => {
    const count = (test) => there.filter((kept) => test(kept[step - 1], kept[step])).length.toLocaleString("en");
    return count((before, now) => !before && now) + " came and " + count((before, now) => before && !now) + " left since " + labels[step - 1];
  };

  const room = () => { // for the longest words of any step, so that the graph stays where it is
    for (const part of [byId("title"), byId("notes")]) {
      part.style.minHeight = "";
      part.style.minHeight = Math.max(...SWEEP.steps.map((step) => { head(step); return part.offsetHeight; })) + "px";
    }
    head(SWEEP.steps[at]);
    cy.resize();
  };

  addEventListener("resize", room);
  slider.addEventListener("input", () => show(Number(slider.value)));
  byId("back").addEventListener("click", () => show(Math.max(at - 1, 0)));
  byId("on").addEventListener("click", () => show(Math.min(at + 1, labels.length - 1)));
  room();
  show(Math.max(labels.indexOf(decodeURIComponent(location.hash.slice(1))), 0));
} else apply();
