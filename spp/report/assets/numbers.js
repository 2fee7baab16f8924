// Numbers as people read them: four digits, powers of ten where those would not do, nothing where there is none.
const grouped = new Intl.NumberFormat("en-US");

function shown(value, digits = 4) {
  if (Number.isNaN(value)) return "";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  if (Number.isInteger(value) && Math.abs(value) < 1e15) return grouped.format(value).replace("-", "−");
  const size = Math.abs(value);
  const [digitsOf, power] = (size >= 1e5 || size < 1e-3 ? value.toExponential(digits - 1) : value.toPrecision(digits)).split("e");
  const short = digitsOf.includes(".") ? digitsOf.replace(/\.?0+$/, "") : digitsOf;
  return (power === undefined ? short : `${short}e${power.replace("+", "")}`).replaceAll("-", "−");
}
