// Tables that sort at a click on a heading, and a field that hides the rows of a table without its words.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    for (const other of heads) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const value = (row) => row.cells[column].dataset.value;
    const numbers = head.classList.contains("number");
    const compare = (a, b) => {
      if (!numbers) return value(a).localeCompare(value(b), undefined, { numeric: true });
      return parseFloat(value(a)) - parseFloat(value(b));
    };
    const body = table.tBodies[0];
    const known = [...body.rows].filter((row) => !numbers || !isNaN(parseFloat(value(row))));
    const unknown = [...body.rows].filter((row) => !known.includes(row));
    known.sort((a, b) => (down ? compare(b, a) : compare(a, b)));
    body.append(...known, ...unknown);
  }));
}
for (const field of document.querySelectorAll("input[data-filters]")) {
  const rows = [...document.getElementById(field.dataset.filters).querySelectorAll("tbody tr")];
  field.addEventListener("input", () => {
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of rows) row.hidden = !words.every((word) => row.textContent.toLowerCase().includes(word));
  });
}
addEventListener("beforeprint", () => {
  for (const part of document.querySelectorAll("details")) part.open = true;
});
