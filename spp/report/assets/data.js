// The page's data: columns are unpacked when they are first asked for.
const data = JSON.parse(document.getElementById("data").textContent);

class Table {
  constructor(raw) {
    this.rows = raw.rows;
    this.columns = raw.columns;
    this.named = new Map(raw.columns.map((column) => [column.name, column]));
    this.cells = new Map();
  }

  has(name) { return this.named.has(name); }

  kind(name) { return this.named.get(name).kind; }

  // Cells of a column: text as strings ("" where missing), everything else as numbers (NaN where missing).
  get(name) {
    if (!this.cells.has(name)) this.cells.set(name, unpacked(this.named.get(name), this.rows));
    return this.cells.get(name);
  }
}

function unpacked(column, rows) {
  const text = column.kind === "text";
  const cell = text
    ? (code) => (code < 0 ? "" : column.levels[code])
    : (value) => (value === null ? NaN : value === "inf" ? Infinity : value === "-inf" ? -Infinity : value);
  if ("constant" in column) return new Array(rows).fill(cell(column.constant));
  return (text ? column.codes : column.values).map(cell);
}

const frame = new Table(data.frame);
const blocks = new Table(data.blocks);
const modules = new Table(data.modules);
const moduleRow = new Map(modules.get("name").map((name, row) => [name, row]));
const plurals = new Map(data.signals.map((signal) => [signal.name, signal.plural]));

const byId = (id) => document.getElementById(id);

// An element with properties and children; strings become text, never markup.
function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key in made && key !== "list") made[key] = value;
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}
