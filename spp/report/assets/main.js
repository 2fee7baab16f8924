// Puts the page together: the table first, which needs nothing else; then plotly is unpacked, and the plot drawn.

let explorer = null;

const grid = new Grid((row) => {
  grid.select(row);
  if (explorer) explorer.show(row);
});

explorer = new Explorer((row) => grid.select(row));

// A layer named in the text: pinned in the plot, the table filtered to it. What is not drawn itself, as a block, is shown by
// the last of its parts that is; a parameter by its module.
function showLayer(name) {
  const names = frame.get("name");
  let known = name;
  while (known && !names.includes(known)) known = known.slice(0, Math.max(0, known.lastIndexOf(".")));
  const own = names.flatMap((one, row) => (one === known ? [row] : []));
  const inside = names.flatMap((one, row) => (known && one.startsWith(`${known}.`) ? [row] : []));
  explorer.byLayer();
  const row = explorer.firstDrawn(own) ?? explorer.firstDrawn(inside.reverse()) ?? own[0];
  const quoted = /\s/.test(known) ? `"${known}"` : known;
  grid.ask(!known || known.includes('"') ? "" : own.includes(row) ? `name=${quoted}` : quoted);
  if (row === undefined) return;
  grid.select(row);
  const drawn = explorer.show(row);
  byId(drawn ? "explorer" : "rows").scrollIntoView();
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button.layer");
  if (button) showLayer(button.dataset.layer);
});

const theme = byId("theme");
theme.querySelector(`[value="${document.documentElement.dataset.choice}"]`).checked = true;
theme.addEventListener("change", (event) => {
  document.dispatchEvent(new CustomEvent("choosetheme", { detail: event.target.value }));
});

async function unpack() {
  const packed = byId("plotly");
  const bytes = Uint8Array.from(atob(packed.textContent), (letter) => letter.charCodeAt(0));
  packed.remove();
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).text();
}

async function start() {
  if (!data.axes.layers.length) {
    byId("canvas").replaceChildren(element("p", { className: "calm" }, "No module ran, so there is nothing to draw over depth."));
    return;
  }
  if (typeof DecompressionStream === "undefined") {
    byId("canvas").replaceChildren(element("p", { className: "calm" }, "The plot needs a browser of 2023 or later."));
    return;
  }
  const source = await unpack();
  document.head.append(element("script", { textContent: source }));
  explorer.draw();
  performance.mark("drawn");
  document.documentElement.dataset.ready = "yes";
}

start();
