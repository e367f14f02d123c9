"use strict";

// A click on a column's title sorts the rows up, then down, then as they were; missing values stay last.
const NEXT = { none: "ascending", ascending: "descending", descending: "none" };

for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0];
  const original = [...body.rows];
  const headers = [...table.tHead.rows[0].cells];
  headers.forEach((header, column) => {
    header.querySelector("button").addEventListener("click", () => {
      const order = NEXT[header.getAttribute("aria-sort")];
      headers.forEach((other) => other.setAttribute("aria-sort", "none"));
      header.setAttribute("aria-sort", order);
      const rows = [...original];
      if (order !== "none") rows.sort(by(column, order === "ascending" ? 1 : -1));
      body.append(...rows);
    });
  });
}

function by(column, direction) {
  return (one, other) => {
    const [a, b] = [one.cells[column], other.cells[column]];
    const missing = ("missing" in a.dataset) - ("missing" in b.dataset);
    return missing || direction * compare(a, b);
  };
}

function compare(a, b) {
  if ("key" in a.dataset && "key" in b.dataset) {
    // Not their difference, which infinities have none of.
    const [x, y] = [Number(a.dataset.key), Number(b.dataset.key)];
    return (x > y) - (x < y);
  }
  return a.textContent.localeCompare(b.textContent, "en", { numeric: true });
}
