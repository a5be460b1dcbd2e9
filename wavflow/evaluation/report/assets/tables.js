"use strict";

// Makes the tables of a page sortable: a click goes from ascending to descending to the original order.

function sortable(table) {
  const body = table.tBodies[0];
  const original = [...body.rows];
  if (original.length < 2) return;
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = head.appendChild(make("button", { type: "button" }, ...head.childNodes));
    button.addEventListener("click", () => {
      const next = { ascending: "descending", descending: null }[head.ariaSort] ?? (head.ariaSort ? null : "ascending");
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      if (next) head.setAttribute("aria-sort", next);
      body.append(...(next ? sorted(original, column, next === "ascending" ? 1 : -1) : original));
    });
  });
}

// Numbers by value, text by the alphabet, what is missing last in either order.
function sorted(rows, column, sign) {
  const key = (row) => {
    const cell = row.cells[column];
    return "value" in cell.dataset ? Number(cell.dataset.value) : cell.textContent;
  };
  const numbers = rows.some((row) => typeof key(row) === "number");
  const missing = (value) => numbers && typeof value !== "number";
  return [...rows].sort((one, other) => {
    const [a, b] = [key(one), key(other)];
    if (missing(a) || missing(b)) return missing(a) - missing(b);
    return sign * (numbers ? a - b : a.localeCompare(b, undefined, { numeric: true }));
  });
}

for (const table of document.querySelectorAll("table")) sortable(table);
