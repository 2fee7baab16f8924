// What is drawn, as data: one panel per signal and statistic, its arrays in the order of the x axis.

const signalColumn = frame.get("signal");
const meanSquare = frame.get("mean_square");

function layerPanels(axis, signals, statistics) {
  return signals.flatMap((signal) => {
    const places = axis.rows.flatMap((row, place) => (signalColumn[row] === signal ? [place] : []));
    return statistics.map((name) => {
      const statistic = data.statistics.find((one) => one.name === name);
      const column = frame.get(name);
      const nonfinite = frame.get("nonfinite");
      const shares = ["mean", "acsm", "acv"].includes(name);
      return panel(axis, places, {
        signal, name,
        title: statistic.short === frame.named.get(name).label ? statistic.short : `${statistic.short}, ${frame.named.get(name).label}`,
        short: statistic.short,
        bounded: statistic.bounded,
        value: (row) => column[row],
        zero: (row, y) => isZero(name === "mean" ? y * y : y, shares ? meanSquare[row] : 0),
        nonfinite: (row, y) => nonfinite[row] > 0 || Math.abs(y) === Infinity,
      });
    });
  });
}

function blockPanels(axis, signals) {
  return signals.flatMap((signal) => data.blockStatistics.map((statistic) => {
    const columns = Object.fromEntries(data.blockStatistics.map((one) => [one.name, one.columns[signal]]));
    const column = blocks.get(columns[statistic.name]);
    const acsm = blocks.get(columns.acsm), acv = blocks.get(columns.acv);
    return panel(axis, axis.rows.map((_, place) => place), {
      signal, name: columns[statistic.name],
      title: statistic.short === "branch ACV" ? "residual branch ACV" : `${statistic.short}, ${frame.named.get(statistic.name).label}`,
      short: statistic.short,
      bounded: false,
      value: (row) => column[row],
      zero: (row, y) => isZero(y, statistic.name === "branch_acv" ? 0 : acsm[row] + acv[row]),
      nonfinite: (row, y) => !Number.isFinite(y),
    });
  }));
}

function isZero(value, whole) {
  return Math.abs(value) < smallest || (whole > 0 && Math.abs(value) <= rounding * whole);
}

function panel(axis, places, facts) {
  const rows = places.map((place) => axis.rows[place]);
  const x = places.map((place) => axis.x[place]);
  const y = rows.map(facts.value);
  const found = y.some(Number.isFinite);
  return {
    signal: facts.signal, name: facts.name, title: facts.title, short: facts.short, bounded: facts.bounded,
    rows, x, y,
    names: places.map((place) => axis.names[place]),
    families: places.map((place) => axis.families[place]),
    first: x.map((value, index) => index === 0 || value !== x[index - 1]),
    zero: rows.map((row, index) => facts.zero(row, y[index])),
    nonfinite: rows.map((row, index) => facts.nonfinite(row, y[index])),
    message: rows.length === 0
      ? axis.missing[facts.signal] || "not measured"
      : found || rows.some((row, index) => facts.nonfinite(row, y[index])) ? "" : "missing for every tensor here",
  };
}
