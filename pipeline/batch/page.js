"use strict";
// Filters and sorts the rows that are in the page already. Without this script all of them are shown.
(() => {
  const table = document.getElementById("instances");
  const body = table.tBodies[0];
  const rows = Array.from(body.rows);
  const texts = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));
  const repo = document.getElementById("repo");
  const search = document.getElementById("search");
  const boxes = Array.from(document.querySelectorAll("input[name=outcome]"));
  const shown = document.getElementById("shown");

  function filter() {
    const outcomes = new Set(boxes.filter((box) => box.checked).map((box) => box.value));
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const row of rows) {
      const fits = outcomes.has(row.dataset.outcome)
        && (!repo.value || row.dataset.repo === repo.value)
        && words.every((word) => texts.get(row).includes(word));
      row.hidden = !fits;
      count += fits;
    }
    shown.textContent = `${count} of ${rows.length}`;
  }

  function key(row, column, kind) {
    const cell = row.cells[column];
    return kind === "number" ? Number(cell.dataset.value) : cell.textContent.trim();
  }

  function sort(header) {
    const column = header.cellIndex, kind = header.dataset.sort;
    const up = header.getAttribute("aria-sort") !== "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", up ? "ascending" : "descending");
    const compare = kind === "number" ? (a, b) => a - b : (a, b) => a.localeCompare(b);
    rows.sort((a, b) => compare(key(a, column, kind), key(b, column, kind)) * (up ? 1 : -1));
    body.append(...rows);
  }

  for (const header of table.tHead.rows[0].cells) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    button.addEventListener("click", () => sort(header));
    header.append(button);
  }
  for (const control of [...boxes, repo, search]) control.addEventListener("input", filter);
  document.getElementById("filters").hidden = false;
  filter();
})();
