// Panels as plotly draws them: traces, axes, stage bands, and ticks that fit the part of the axis in view.
const SYMBOLS = ["circle", "square-open", "triangle-up", "cross-thin-open"];
const MANY = 600; // more markers than this in one panel hide each other, and take long to draw: the line alone is shown
const MARGIN = { l: 66, r: 14, t: 46, b: 30 };
const SLANTED = 78; // room below for the names of layers
const GAP = { x: 66, y: 22 };

// Where the findings of a layer stand: the worst at each place. A block stands at the last of its layers that is drawn.
function flagsOf(axis) {
  const found = new Map();
  for (const { name, severity } of data.findings) {
    let x = axis.labels.indexOf(name);
    if (x < 0) x = axis.labels.findLastIndex((label) => label.startsWith(`${name}.`));
    if (x >= 0 && !found.has(x)) found.set(x, severity);
  }
  return [...found].map(([x, severity]) => ({ x, severity }));
}

// Colours are read anew for each drawing: the theme may have changed.
function inks() {
  const names = ["ink", "soft", "rule", "band", "card", "alarm", ...data.signals.map((signal) => signal.name)];
  const found = Object.fromEntries(names.map((name) => [name, colour(name.replace("_", "-"))]));
  return { ...found, error: colour("alarm"), warning: colour("warn"), note: colour("accent") };
}

// `view` holds axis, flags, panels, columns (how many beside each other), wanted (scale), range (of x), width.
function figure(view) {
  const ink = inks();
  const across = Math.max(1, Math.min(view.columns, Math.floor(view.width / 300)));
  const perSignal = Math.ceil(view.columns / across);
  const down = Math.ceil(view.panels.length / view.columns) * perSignal;
  const margin = { ...MARGIN, b: named(view.axis, view.range, (view.width - MARGIN.l - MARGIN.r) / across - GAP.x) ? SLANTED : MARGIN.b };
  const height = margin.t + margin.b + down * panelHeight(down) + (down - 1) * GAP.y;
  const layout = {
    width: view.width, height, margin, showlegend: false, hovermode: "x", hoverdistance: -1, dragmode: "zoom",
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", shapes: [], annotations: [],
    font: { family: "system-ui, sans-serif", size: 12, color: ink.ink }, uirevision: view.revision,
  };
  const traces = [], places = [];
  view.panels.forEach((one, index) => {
    const within = index % view.columns;
    const row = Math.floor(index / view.columns) * perSignal + Math.floor(within / across);
    places.push(place(layout, view, one, index, { row, column: within % across, across, down }, ink));
    traces.push(...tracesOf(one, index, places[index], ink, view));
  });
  layout.annotations.push(...notes(view, places, ink), ...stageNames(view, places, view.range, ink));
  Object.assign(layout, tickUpdate(view, places, view.range, ink, (axis, ticks) => Object.assign(layout[axis], ticks)));
  return { traces, layout, places };
}

function panelHeight(down) {
  return down === 1 ? 320 : down <= 3 ? 190 : 160;
}

function place(layout, view, one, index, spot, ink) {
  const key = index ? String(index + 1) : "";
  const inner = { w: layout.width - MARGIN.l - MARGIN.r, h: layout.height - layout.margin.t - layout.margin.b };
  const w = (inner.w - (spot.across - 1) * GAP.x) / spot.across, h = panelHeight(spot.down);
  const left = spot.column * (w + GAP.x), top = spot.row * (h + GAP.y);
  const usable = one.y.filter((value, i) => Number.isFinite(value) && !one.zero[i]);
  const scale = chooseScale(usable, view.wanted, one.bounded);
  // A linear axis keeps room for its zeros; on the others they are marked at the foot.
  const held = scale.name === "log" ? usable : one.y.filter(Number.isFinite);
  const fit = yAxis(held, scale, one.bounded);
  const lines = { gridcolor: ink.rule, linecolor: ink.soft, tickcolor: ink.soft, tickfont: { color: ink.soft, size: 11 } };
  layout[`xaxis${key}`] = {
    ...lines, domain: [left / inner.w, (left + w) / inner.w], anchor: `y${key}`, range: [...view.range], showgrid: false,
    zeroline: false, showline: true, ticks: "", matches: index ? "x" : undefined, fixedrange: false,
  };
  layout[`yaxis${key}`] = {
    ...lines, ...fit.axis, tickfont: { color: ink.soft, size: scale.name === "log" ? 9.5 : 11 }, // plotly enlarges powers
    domain: [1 - (top + h) / inner.h, 1 - top / inner.h], anchor: `x${key}`, showline: true,
    zeroline: scale.name !== "log", zerolinecolor: ink.soft, zerolinewidth: 0.5, exponentformat: "power", nticks: 6,
    uirevision: `${one.signal} ${one.name} ${view.wanted}`, title: {
      text: `${plurals.get(one.signal)}${scale.name === "linear" ? "" : ` (${scale.name})`}`, standoff: 6,
      font: { size: 12, color: ink[one.signal] },
    },
  };
  const transitions = view.axis.transitions.map((x) => ({
    type: "line", xref: `x${key}`, yref: `y${key} domain`, x0: x, x1: x, y0: 0, y1: 1, layer: "below",
    line: { color: ink.soft, width: 1, dash: "dot" },
  }));
  const bands = view.axis.stages.filter((_, i) => i % 2 === 0).map(([, start, stop]) => ({
    type: "rect", xref: `x${key}`, yref: `y${key} domain`, x0: start - 0.5, x1: stop - 0.5, y0: 0, y1: 1, layer: "below",
    fillcolor: ink.band, line: { width: 0 },
  }));
  const flags = view.flags.map(({ x, severity }) => ({
    type: "line", xref: `x${key}`, yref: `y${key} domain`, x0: x, x1: x, y0: 0, y1: 1, layer: "below",
    line: { color: ink[severity], width: 1.5, dash: "dash" },
  }));
  layout.shapes.push(...bands, ...transitions, ...flags);
  return { key, w, h, scale, ...fit, ...spot, last: spot.row === spot.down - 1 };
}

// A line through the first tensor of each layer, and marks: by family, for zeros on a log axis, for what is not finite.
function tracesOf(one, index, at, ink, view) {
  const axes = { xaxis: `x${at.key}`, yaxis: `y${at.key}`, meta: index, type: "scatter", hoverinfo: "none" };
  const to = placed(at.scale), own = ink[one.signal];
  const onAxis = (i) => Number.isFinite(one.y[i]) && !(at.scale.name === "log" && (one.zero[i] || one.y[i] <= 0));
  const all = one.x.map((_, i) => i), line = all.filter((i) => one.first[i]);
  const inView = all.filter((i) => one.x[i] >= view.range[0] && one.x[i] <= view.range[1]);
  const dense = inView.length > MANY;
  const rows = (picked) => ({ x: picked.map((i) => one.x[i]), customdata: picked.map((i) => one.rows[i]) });
  const marks = (picked, y, marker) => (picked.length ? [{ ...axes, ...rows(picked), mode: "markers", y: picked.map(y), marker: { color: own, ...marker } }] : []);
  const size = dense ? 2.5 : Math.max(4, Math.min(7.5, (at.w / (view.range[1] - view.range[0])) * 0.9));
  // In a dense panel only what the line cannot show, for want of a neighbour.
  const alone = (i) => !(i > 0 && onAxis(i - 1)) && !(i + 1 < all.length && onAxis(i + 1));
  const drawn = (one.x.length > MANY ? inView : all).filter((i) => onAxis(i) && (!dense || alone(i)));
  const zeros = at.scale.name === "log" ? all.filter((i) => one.zero[i] && !one.nonfinite[i]) : [];
  return [
    {
      ...axes, ...rows(line), mode: "lines", y: line.map((i) => (onAxis(i) ? to(one.y[i]) : null)),
      line: { color: own, width: dense ? 1.3 : 1 }, opacity: dense ? 1 : 0.45,
    },
    ...marks(drawn, (i) => to(one.y[i]), { size, symbol: drawn.map((i) => SYMBOLS[view.marks ? one.families[i] : 0]), line: { width: 1.3, color: own } }),
    ...marks(zeros, () => at.foot, { size: dense ? 3 : 7, symbol: "triangle-down-open", line: { width: 1.3, color: own } }),
    ...marks(all.filter((i) => one.nonfinite[i]), () => at.top, { size: 8, color: ink.alarm, symbol: "x" }),
  ];
}

// Column titles above the first row, and the reason where a panel is empty.
function notes(view, places, ink) {
  const titles = view.panels.flatMap((one, index) => (index < view.columns ? [{
    xref: `x${places[index].key} domain`, yref: `y${places[index].key} domain`, x: 0, y: 1, xanchor: "left", yanchor: "bottom",
    yshift: places[index].row === 0 ? 20 : 2, text: `<b>${one.title}</b>`, showarrow: false, font: { size: 12.5, color: ink.ink },
  }] : []));
  const empty = view.panels.flatMap((one, index) => (one.message ? [{
    xref: `x${places[index].key} domain`, yref: `y${places[index].key} domain`, x: 0.5, y: 0.5, text: escaped(one.message),
    showarrow: false, font: { color: ink.soft },
  }] : []));
  return [...titles, ...empty];
}

// plotly reads a little markup in texts: a name must not bring its own, our line breaks stay. What is no letter is escaped.
function escaped(text) {
  const shown = text.replace(/[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]/g, (one) => `\\u${one.charCodeAt(0).toString(16).padStart(4, "0")}`);
  return shown.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;").replaceAll("\n", "<br>");
}

function stageNames(view, places, range, ink) {
  return places.flatMap((at) => {
    if (at.row !== 0) return [];
    const perLayer = at.w / (range[1] - range[0]);
    return view.axis.stages.flatMap(([name, start, stop]) => {
      const from = Math.max(start - 0.5, range[0]), to = Math.min(stop - 0.5, range[1]);
      if ((to - from) * perLayer < name.length * 6.2 + 6) return [];
      return [{
        xref: `x${at.key}`, yref: `y${at.key} domain`, x: (from + to) / 2, y: 1, yanchor: "bottom", yshift: 2,
        text: escaped(name), showarrow: false, font: { size: 11, color: ink.soft },
      }];
    });
  });
}

// Every layer's name where there is room for all in view; else stages and blocks, the most important first.
function tickUpdate(view, places, range, ink, put) {
  places.forEach((at) => {
    const slanted = named(view.axis, range, at.w);
    const ticks = slanted ? everyLayer(view.axis.labels, range) : blockTicks(view.axis.ticks, range, at.w / (range[1] - range[0]));
    put(`xaxis${at.key}`, {
      tickmode: "array", tickvals: ticks.map(([x]) => x), ticktext: ticks.map(([, text]) => escaped(text)),
      tickangle: slanted && ticks.some(([, text]) => text.length * 6.4 > at.w / (range[1] - range[0])) ? -50 : 0, showticklabels: at.last, ticks: at.last ? "outside" : "", ticklen: 3,
    });
  });
}

// Whether a panel `width` pixels wide has room for every layer's name.
function named(axis, range, width) {
  return width / Math.min(range[1] - range[0], axis.labels.length) >= 16;
}

function everyLayer(labels, range) {
  const found = [];
  for (let x = Math.max(0, Math.ceil(range[0])); x < labels.length && x <= range[1]; x += 1) found.push([x, labels[x].length > 16 ? `…${labels[x].slice(-15)}` : labels[x]]);
  return found;
}

function blockTicks(candidates, range, perLayer) {
  const taken = [], found = [];
  for (const [x, text] of candidates) {
    if (x < range[0] || x > range[1]) continue;
    const middle = x * perLayer, half = text.length * 3.3 + 5;
    if (taken.some(([from, to]) => middle - half < to && middle + half > from)) continue;
    taken.push([middle - half, middle + half]);
    found.push([x, text]);
  }
  return found;
}
