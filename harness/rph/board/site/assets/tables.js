// Sorts and filters the tables of a page. The state stands in the URL's hash, as "family=trees&sort=accuracy&down=1";
// a hash without "=" is a link into the page and changes nothing.
(() => {
  "use strict";
  const controls = [...document.querySelectorAll("[data-filter]")];
  const tables = [...document.querySelectorAll("table.sortable")];
  const filtered = [...document.querySelectorAll(".filtered")];
  const initial = new Map(controls.map((control) => [control, control.value]));
  const defaults = new Map(tables.map((table) => [table, table.dataset.sorted]));

  const read = () => new URLSearchParams(location.hash.slice(1));

  function write(change) {
    const state = location.hash.includes("=") ? read() : new URLSearchParams();
    for (const [key, value] of Object.entries(change)) {
      if (value === null || value === "") state.delete(key);
      else state.set(key, value);
    }
    history.replaceState(null, "", state.size ? `#${state}` : location.href.split("#")[0]);
    apply();
  }

  function apply() {
    if (location.hash.length > 1 && !location.hash.includes("=")) return;
    const state = read();
    for (const control of controls) {
      const asked = state.get(control.dataset.filter);
      const known = control.tagName !== "SELECT" || [...control.options].some((option) => option.value === asked);
      const value = asked !== null && known ? asked : initial.get(control);
      if (control.value !== value) control.value = value;
    }
    filter();
    for (const table of tables) sort(table, state.get("sort"), state.get("down") === "1");
    document.dispatchEvent(new Event("shown"));
  }

  function filter() {
    const wanted = controls.map((control) => [control.dataset.filter, control.value.trim().toLowerCase()]);
    const active = wanted.filter(([, value]) => value !== "");
    for (const element of filtered) {
      element.hidden = active.some(([key, value]) => {
        const own = element.dataset[key];
        if (own === undefined) return false;
        return key === "q" ? !own.toLowerCase().includes(value) : own.toLowerCase() !== value;
      });
    }
    for (const status of document.querySelectorAll("[data-counts]")) {
      const rows = [...document.querySelectorAll("tr.filtered")].filter((row) => !row.parentElement.closest("[hidden]"));
      const shown = rows.filter((row) => !row.hidden).length;
      status.textContent = `${shown} of ${rows.length} ${status.dataset.counts}`;
    }
  }

  function sort(table, key, down) {
    const heads = [...table.tHead.rows[0].cells];
    let head = heads.find((cell) => cell.dataset.key === key && key !== null);
    if (!head) {
      head = heads.find((cell) => cell.dataset.key === defaults.get(table));
      down = false;
    }
    if (!head) return;
    const numeric = head.classList.contains("number");
    const body = table.querySelector("tbody.ranked");
    const keyed = [...body.rows].map((row) => {
      const value = row.cells[head.cellIndex].dataset.value;
      return { row, value: value === undefined ? null : numeric ? Number(value) : value };
    });
    const sign = down ? -1 : 1;
    keyed.sort((a, b) => {
      if (a.value === null || b.value === null) return (a.value === null) - (b.value === null); // unknown: last
      return sign * (numeric ? a.value - b.value : a.value.localeCompare(b.value));
    });
    body.append(...keyed.map((entry) => entry.row));
    for (const cell of heads) cell.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    table.dataset.sorted = down ? "" : head.dataset.key;
  }

  for (const table of tables) {
    for (const cell of table.tHead.rows[0].cells) {
      cell.querySelector("button")?.addEventListener("click", () => {
        const sorted = cell.getAttribute("aria-sort");
        const down = sorted ? sorted === "ascending" : cell.dataset.first === "descending";
        write({ sort: cell.dataset.key, down: down ? "1" : null });
      });
    }
  }
  for (const control of controls) {
    control.addEventListener(control.tagName === "SELECT" ? "change" : "input", () =>
      write({ [control.dataset.filter]: control.value === initial.get(control) ? null : control.value }),
    );
  }
  for (const bar of document.querySelectorAll(".controls")) bar.hidden = false;
  addEventListener("hashchange", apply);
  apply();
})();
