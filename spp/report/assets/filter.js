// The filter's little language: words that must occur, -words that must not, and conditions such as acv>1e3. What is between
// quotation marks is one word.
const SEARCHED = ["name", "type", "signal", "role", "block", "output", "shape", "dtype"];
const WORDS = /(?:[^\s"]|"[^"]*"?)+/g;
const CONDITION = /^([a-z_]+)(<=|>=|!=|=|<|>)(.*)$/;
const COMPARE = {
  "<": (a, b) => a < b, ">": (a, b) => a > b, "<=": (a, b) => a <= b, ">=": (a, b) => a >= b,
  "=": (a, b) => a === b, "!=": (a, b) => a !== b,
};

// Returns { test: row -> boolean, complaint }; what cannot be understood lets every row pass and is said.
function parseQuery(query) {
  const tests = [], complaints = [];
  for (const quoted of query.match(WORDS) || []) {
    const word = quoted.replaceAll('"', "");
    const condition = CONDITION.exec(word);
    if (!condition) tests.push(wordTest(word));
    else if (!frame.has(condition[1])) complaints.push(`There is no column ${condition[1]}.`);
    else {
      const made = conditionTest(...condition.slice(1));
      if (made) tests.push(made);
      else complaints.push(`${condition[1]} is compared with a number, as ${condition[1]}${condition[2]}0.1.`);
    }
  }
  return { test: (row) => tests.every((one) => one(row)), complaint: complaints.join(" ") };
}

let searched = null; // one lower-case line per row, made at the first word

function wordTest(word) {
  const columns = SEARCHED.map((name) => frame.get(name));
  searched ??= Array.from({ length: frame.rows }, (_, row) => columns.map((column) => column[row]).join(" ").toLowerCase());
  const without = word.length > 1 && word.startsWith("-");
  const sought = (without ? word.slice(1) : word).toLowerCase();
  return (row) => searched[row].includes(sought) !== without;
}

function conditionTest(name, sign, right) {
  const cells = frame.get(name);
  const compare = COMPARE[sign];
  if (right === "missing" && (sign === "=" || sign === "!=")) {
    return (row) => (cells[row] === "" || Number.isNaN(cells[row])) === (sign === "=");
  }
  if (frame.kind(name) === "text") return (row) => compare(cells[row], right);
  const flags = { true: 1, false: 0, yes: 1, no: 0, inf: Infinity, "-inf": -Infinity };
  const number = right in flags ? flags[right] : Number(right);
  if (right === "" || Number.isNaN(number)) return null;
  return (row) => compare(cells[row], number);
}
