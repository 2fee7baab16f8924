// What is known of one tensor, beside the pointer: name, shape, every statistic.

function describe(row, statistic, name) {
  const cell = (column) => frame.get(column)[row];
  const words = [cell("type"), cell("shape").replaceAll("x", "×") || "scalar", cell("dtype")];
  const lines = [["signal", plurals.get(cell("signal"))]];
  if (cell("role")) lines.push(["role", cell("role").replaceAll("_", " ")]);
  if (cell("block")) lines.push(["block", cell("block")]);
  lines.push(["channels", shown(cell("channels"))], ["elements", shown(cell("numel"))]);
  const made = [heading(name || cell("name") || "the model itself", words), pairs(lines, "facts")];
  const numbers = data.statistics
    .map((one) => [one.name, one.short, cell(one.name)])
    .filter(([, , value]) => !Number.isNaN(value))
    .map(([key, label, value]) => [label.length > 5 ? key.replaceAll("_", " ") : label, shown(value), key === statistic, key === "nonfinite" && value > 0]);
  made.push(pairs(numbers, "numbers"));
  const about = aboutModule(cell("name"));
  if (about) made.push(element("p", { className: "about" }, about));
  return made;
}

function describeBlock(row, column, name) {
  const cell = (key) => blocks.get(key)[row];
  const lines = [["branch ends", cell("branch")], ["skip", cell("skip") || "the network's input"]];
  if (cell("transition")) lines.push(["transition", "the skip goes through modules"]);
  const numbers = data.blockStatistics.flatMap((one) => Object.entries(one.columns).map(([, key]) =>
    [blocks.named.get(key).label, shown(cell(key)), key === column, false])).filter(([, text]) => text);
  return [heading(name, ["residual block"]), pairs(lines, "facts"), pairs(numbers, "numbers wide")];
}

function heading(name, words) {
  return element("header", {}, element("strong", {}, name), element("span", {}, words.filter(Boolean).join(" · ")));
}

function pairs(lines, name) {
  return element("dl", { className: name }, ...lines.map(([label, value, chosen, alarm]) =>
    element("div", { className: [chosen ? "chosen" : "", alarm ? "alarm" : ""].join(" ").trim() },
      element("dt", {}, label), element("dd", {}, value))));
}

function aboutModule(name) {
  const row = moduleRow.get(name);
  if (row === undefined) return "";
  const cell = (column) => modules.get(column)[row];
  const words = [];
  if (cell("parameters") > 0) words.push(`${shown(cell("parameters"))} parameters`);
  for (const column of ["fan_in", "fan_out", "groups", "eps"]) {
    if (!Number.isNaN(cell(column))) words.push(`${modules.named.get(column).label} ${shown(cell(column))}`);
  }
  return words.join(" · ");
}
