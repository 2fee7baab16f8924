// Axes: the scale is chosen from the values as the printed figures choose it.
const { logFrom, rounding, smallest } = data.limits;

// `wanted` is auto, log or linear; a log scale of values with a negative one is linear around zero (symlog).
function chooseScale(values, wanted, bounded) {
  const used = values.filter((value) => Number.isFinite(value) && Math.abs(value) >= smallest);
  const sizes = used.map(Math.abs);
  const least = sizes.reduce((a, b) => Math.min(a, b), Infinity);
  const most = sizes.reduce((a, b) => Math.max(a, b), 0);
  const wide = sizes.length > 0 && most >= logFrom * least;
  if (wanted === "linear" || !sizes.length || (wanted === "auto" && (bounded || !wide))) return { name: "linear" };
  if (used.every((value) => value > 0)) return { name: "log" };
  return { name: "symlog", threshold: 10 ** Math.floor(Math.log10(Math.max(least, most * 1e-12))) };
}

function symlog(value, threshold) {
  const ratio = Math.abs(value) / threshold;
  return ratio <= 1 ? value / threshold : Math.sign(value) * (1 + Math.log10(ratio));
}

// Where a value stands on the axis, in the axis' own coordinates, as they are given to plotly.
function placed(scale) {
  return scale.name === "symlog" ? (value) => symlog(value, scale.threshold) : (value) => value;
}

// The y axis for the values it has to hold; `foot` and `top` are where zeros and non-finite values are marked.
function yAxis(values, scale, bounded) {
  const place = placed(scale);
  const spots = values.filter(Number.isFinite).map(place).map((y) => (scale.name === "log" ? Math.log10(y) : y));
  let low = spots.reduce((a, b) => Math.min(a, b), Infinity);
  let high = spots.reduce((a, b) => Math.max(a, b), -Infinity);
  if (!(low <= high)) [low, high] = [0, 1];
  if (bounded && scale.name === "linear") [low, high] = [0, 1];
  if (scale.name === "linear" && !bounded && low > 0) low = 0;
  if (scale.name === "linear" && !bounded && high < 0) high = 0;
  const room = (high - low || Math.abs(high) || 1) * 0.09;
  const range = [low - room, high + room];
  const at = (share) => range[0] + share * (range[1] - range[0]);
  const back = (spot) => (scale.name === "log" ? 10 ** spot : spot);
  const axis = { type: scale.name === "log" ? "log" : "linear", range };
  if (scale.name === "log" && high - low > 2) axis.dtick = Math.max(1, Math.ceil((high - low) / 5));
  if (scale.name === "symlog") Object.assign(axis, symlogTicks(low, high, scale.threshold));
  return { axis, foot: back(at(0.035)), top: back(at(0.965)) };
}

function symlogTicks(low, high, threshold) {
  const decades = Math.ceil(Math.max(-low, high, 1));
  const stride = Math.max(1, Math.ceil(decades / 3));
  const base = Math.round(Math.log10(threshold));
  const tickvals = [0], ticktext = ["0"];
  for (let k = 1; k <= decades; k += stride) {
    for (const sign of [-1, 1]) {
      if (sign * k < low - 0.5 || sign * k > high + 0.5) continue;
      tickvals.push(sign * k);
      ticktext.push(`${sign < 0 ? "−" : ""}10<sup>${String(base + k - 1).replace("-", "−")}</sup>`);
    }
  }
  return { tickvals, ticktext };
}
