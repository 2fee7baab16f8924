// The table: only the rows in view exist in the page, so that a hundred thousand of them scroll as well as ten.
const ROW = 30; // height in pixels; the style sheet says the same
const PRINTED = 200;
const BASIC = [
  "step", "depth", "name", "output", "type", "signal", "shape", "mean", "std", "rms", "acsm", "acv", "abs_max", "zero_fraction", "dead_fraction",
  "nonfinite",
];

class Grid {
  constructor(onPick) {
    this.onPick = onPick;
    this.sort = { name: "", down: false };
    this.selected = -1;
    this.scroll = byId("scroll");
    this.body = byId("grid").tBodies[0];
    const constant = (column) => "constant" in column;
    this.columns = BASIC.filter((name) => !["step", "output"].includes(name) || !constant(frame.named.get(name)));
    this.choices();
    this.menu();
    this.layOut();
    this.filter();
    this.scroll.addEventListener("scroll", () => this.paint(), { passive: true });
    new ResizeObserver(() => this.paint()).observe(this.scroll);
    addEventListener("beforeprint", () => this.paint(PRINTED));
    addEventListener("afterprint", () => this.paint());
  }

  choices() {
    for (const [id, column, all] of [["bysignal", "signal", "all signals"], ["bytype", "type", "all types"]]) {
      const names = [...new Set(frame.get(column))];
      if (column === "type") names.sort();
      byId(id).append(element("option", { value: "" }, all), ...names.map((name) => element("option", { value: name }, name)));
    }
    const again = () => this.filter();
    for (const id of ["bysignal", "bytype", "leaves"]) byId(id).addEventListener("change", again);
    byId("query").addEventListener("input", again);
    byId("clear").addEventListener("click", () => { this.ask(""); byId("query").focus(); });
    this.body.addEventListener("click", (event) => {
      const row = event.target.closest("tr[data-row]");
      if (row) this.onPick(Number(row.dataset.row));
    });
  }

  // Replace every filter by `query`.
  ask(query) {
    byId("query").value = query;
    byId("bysignal").value = byId("bytype").value = "";
    byId("leaves").checked = false;
    this.filter();
  }

  menu() {
    const box = byId("columns").querySelector("div");
    for (const column of frame.columns) {
      const input = element("input", { type: "checkbox", checked: this.columns.includes(column.name), value: column.name });
      input.addEventListener("change", () => {
        const chosen = new Set([...box.querySelectorAll("input:checked")].map((one) => one.value));
        this.columns = frame.columns.map((one) => one.name).filter((name) => chosen.has(name));
        this.layOut();
        this.paint();
      });
      box.append(element("label", { title: column.meaning }, input, element("code", {}, column.name), ` ${column.meaning}`));
    }
    addEventListener("click", (event) => { if (!byId("columns").contains(event.target)) byId("columns").open = false; });
    byId("columns").addEventListener("keydown", (event) => {
      if (event.key === "Escape") { byId("columns").open = false; byId("columns").firstElementChild.focus(); }
    });
  }

  // The head and the widths: fixed, so that columns do not move while one scrolls.
  layOut() {
    const head = element("tr", {});
    const widths = [];
    for (const name of this.columns) {
      const column = frame.named.get(name);
      const button = element("button", { type: "button", title: column.meaning }, name);
      button.addEventListener("click", () => this.order(name));
      head.append(element("th", { scope: "col", className: `${column.kind} is-${name}`, "data-column": name }, button));
      const longest = column.kind === "text" ? column.levels.reduce((most, text) => Math.max(most, text.length), 0) : column.kind === "number" ? 10 : 6;
      const wide = name === "name" ? Math.min(34, longest) : column.kind === "text" ? Math.min(20, longest) * 0.88 : longest;
      widths.push(element("col", { style: `width:${Math.max(4, wide, name.length) + 2.5}ch` }));
    }
    byId("grid").querySelector("colgroup").replaceChildren(...widths);
    byId("grid").tHead.replaceChildren(head);
    byId("grid").setAttribute("aria-colcount", this.columns.length);
    this.showOrder();
  }

  order(name) {
    const numeric = frame.kind(name) !== "text";
    const { name: before, down } = this.sort;
    // First the end that people look for: large numbers, names from A; then the other; then the order of the frame.
    if (before !== name) this.sort = { name, down: numeric };
    else this.sort = down === numeric ? { name, down: !down } : { name: "", down: false };
    this.showOrder();
    this.filter();
  }

  showOrder() {
    for (const head of byId("grid").tHead.querySelectorAll("th")) {
      const mine = head.dataset.column === this.sort.name;
      head.setAttribute("aria-sort", !mine ? "none" : this.sort.down ? "descending" : "ascending");
    }
  }

  filter() {
    const { test, complaint } = parseQuery(byId("query").value);
    const signal = byId("bysignal").value, type = byId("bytype").value, leaves = byId("leaves").checked;
    const signals = frame.get("signal"), types = frame.get("type"), leaf = frame.get("leaf");
    this.rows = [];
    for (let row = 0; row < frame.rows; row += 1) {
      if ((!signal || signals[row] === signal) && (!type || types[row] === type) && (!leaves || leaf[row]) && test(row)) this.rows.push(row);
    }
    if (this.sort.name) this.rows.sort(comparison(frame.get(this.sort.name), this.sort.down));
    byId("complaint").textContent = complaint;
    const all = shown(frame.rows);
    byId("count").textContent = this.rows.length === frame.rows ? `${all} rows` : `${shown(this.rows.length)} of ${all} rows`;
    byId("grid").setAttribute("aria-rowcount", this.rows.length + 1);
    this.scroll.scrollTop = 0;
    this.paint();
  }

  paint(printed = 0) {
    const height = this.scroll.clientHeight || 480;
    const first = printed ? 0 : Math.max(0, Math.floor(this.scroll.scrollTop / ROW) - 6);
    const last = Math.min(this.rows.length, printed || first + Math.ceil(height / ROW) + 12);
    const cells = this.columns.map((name) => [name, frame.kind(name), frame.get(name)]);
    const made = [spacer(first, this.columns.length)];
    for (let at = first; at < last; at += 1) made.push(this.row(this.rows[at], at, cells));
    made.push(spacer(printed ? 0 : this.rows.length - last, this.columns.length));
    if (!this.rows.length) made.push(element("tr", {}, element("td", { colSpan: this.columns.length, className: "none" }, "No row fits the filter.")));
    if (printed && last < this.rows.length) made.push(element("tr", {}, element("td", { colSpan: this.columns.length }, `and ${shown(this.rows.length - last)} more rows; filter before printing`)));
    this.body.replaceChildren(...made);
  }

  row(row, at, cells) {
    const made = element("tr", { "data-row": row, "aria-rowindex": at + 2 });
    if (row === this.selected) made.setAttribute("aria-selected", "true");
    for (const [name, kind, column] of cells) {
      const value = column[row];
      const text = kind === "text" ? (name === "name" && !value ? "(the model itself)" : value) : kind === "flag" ? (value ? "yes" : "") : shown(value);
      const alarm = name === "nonfinite" && value > 0 ? " alarm" : "";
      made.append(element(name === "name" ? "th" : "td", { className: `${kind} is-${name}${alarm}`, title: kind === "text" && text.length > 20 ? text : "" }, text));
    }
    return made;
  }

  // Mark a row and bring it into view, if the filter lets it pass.
  select(row) {
    this.selected = row;
    const at = this.rows.indexOf(row);
    const top = at * ROW, height = this.scroll.clientHeight - ROW;
    if (at >= 0 && (top < this.scroll.scrollTop || top > this.scroll.scrollTop + height - ROW)) this.scroll.scrollTop = top - height / 2;
    this.paint();
  }
}

function spacer(rows, columns) {
  const cell = element("td", { colSpan: columns });
  cell.style.height = `${rows * ROW}px`;
  return element("tr", { className: "spacer", "aria-hidden": "true", hidden: rows === 0 }, cell);
}

// Missing cells come last in either order; equal ones keep the order of the frame.
function comparison(cells, down) {
  const sign = down ? -1 : 1;
  const missing = (value) => value === "" || Number.isNaN(value);
  return (a, b) => {
    const x = cells[a], y = cells[b];
    if (missing(x) || missing(y)) return missing(x) - missing(y) || a - b;
    return x === y ? a - b : x < y ? -sign : sign;
  };
}
