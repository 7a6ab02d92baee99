// Without this script the page has everything; with it, tables sort and filter.
const isNumber = text => text !== "" && Number.isFinite(Number(text));
// The collator reads 0.24 as 0 and 24, which would come after 0.3: numbers are compared as numbers.
const compare = (a, b) =>
  isNumber(a) && isNumber(b) ? Number(a) - Number(b) : a.localeCompare(b, "en", { numeric: true });
for (const table of document.querySelectorAll("table.sortable")) {
  const rows = [...table.tBodies[0].rows], heads = [...table.tHead.rows[0].cells];
  const key = (row, column) => row.cells[column].dataset.key ?? row.cells[column].textContent.trim();
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const sorted = [...rows].sort((a, b) => compare(key(a, column), key(b, column)));
      table.tBodies[0].append(...(down ? sorted.reverse() : sorted));
    });
  });
  const bar = document.getElementById(table.dataset.filter);
  if (!bar) continue;
  bar.hidden = false;
  const [field, choice, said] = ["input", "select", "output"].map(name => bar.querySelector(name));
  const filter = () => {
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      const fits = words.every(word => text.includes(word)) && (!choice.value || row.dataset.state === choice.value);
      row.hidden = !fits;
      shown += fits;
    }
    said.textContent = `${shown} of ${rows.length}`;
  };
  field.addEventListener("input", filter);
  choice.addEventListener("change", filter);
  filter();
}
