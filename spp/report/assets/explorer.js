// The plot and its controls: what is chosen, what is under the pointer, what is pinned.
const CONFIG = { displayModeBar: false, responsive: false, scrollZoom: false, doubleClick: "reset", showTips: false };

const PAPER = 670; // width of a printed page between its margins, in pixels

class Explorer {
  constructor(onPick) {
    this.onPick = onPick;
    this.canvas = byId("canvas");
    this.pinned = null;
    this.paper = 0;
    const present = data.signals.map((signal) => signal.name).filter((name) => signalColumn.includes(name));
    const usual = present.filter((name) => name !== "weight_gradient");
    this.state = { view: "layers", signals: new Set(usual.length ? usual : present), left: "acsm", right: "acv", wanted: "auto", step: data.axes.layers.length - 1 };
    this.controls(present);
  }

  controls(present) {
    const { state } = this;
    for (const signal of data.signals) {
      const input = element("input", { type: "checkbox", value: signal.name, checked: state.signals.has(signal.name), disabled: !present.includes(signal.name) });
      input.addEventListener("change", () => {
        if (input.checked) state.signals.add(signal.name);
        else if (state.signals.size > 1) state.signals.delete(signal.name);
        else input.checked = true; // one signal stays
        this.draw();
      });
      byId("signals").append(element("label", { className: signal.name, title: present.includes(signal.name) ? "" : "not measured" }, input, element("span", {}, signal.plural)));
    }
    for (const side of ["left", "right"]) {
      const filled = (name) => frame.get(name).some((value) => !Number.isNaN(value));
      const names = data.statistics.filter((one) => filled(one.name)).map((one) => element("option", { value: one.name }, one.short));
      byId(side).append(...(side === "right" ? [element("option", { value: "" }, "nothing else")] : []), ...names);
      byId(side).value = state[side];
      byId(side).addEventListener("change", () => { state[side] = byId(side).value; this.draw(); });
    }
    for (const [name, key] of [["view", "view"], ["scale", "wanted"]]) {
      byId(name).addEventListener("change", (event) => { state[key] = event.target.value; this.unpin(); this.draw(); });
    }
    byId("view").hidden = !data.axes.blocks.length || !data.axes.layers.length;
    byId("steps").hidden = data.axes.layers.length < 2;
    byId("step").append(...data.axes.layers.map((axis, at) => element("option", { value: at }, shown(axis.step))));
    byId("step").value = state.step;
    byId("step").addEventListener("change", () => { state.step = Number(byId("step").value); this.unpin(); this.draw(); });
    byId("reset").addEventListener("click", () => this.zoomOut());
    byId("save").addEventListener("click", () => window.Plotly.downloadImage(this.canvas, { format: "svg", filename: "spp" }));
    byId("position").addEventListener("input", () => this.walk(Number(byId("position").value)));
    byId("position").addEventListener("blur", () => this.rest());
    addEventListener("keydown", (event) => { if (event.key === "Escape") { this.unpin(); this.rest(); } });
    document.addEventListener("themechange", () => this.draw());
    addEventListener("beforeprint", () => { this.paper = PAPER; this.draw(); });
    addEventListener("afterprint", () => { this.paper = 0; this.draw(); });
    let waiting = 0;
    new ResizeObserver(() => {
      cancelAnimationFrame(waiting);
      waiting = requestAnimationFrame(() => { if (this.drawn && !this.paper && byId("plot").clientWidth !== this.drawn.width) this.draw(); });
    }).observe(byId("plot"));
  }

  whole() {
    const size = this.axis().labels.length, room = 0.5 + 0.01 * size;
    return [-room, size - 1 + room];
  }

  axis() {
    const axis = data.axes.layers[this.state.step];
    if (this.state.view === "layers") return axis;
    return data.axes.blocks.find((one) => !axis || one.step === axis.step) || data.axes.blocks[0];
  }

  // Draw what is chosen; a zoom survives as long as the x axis is the same one.
  draw() {
    if (!window.Plotly || !data.axes.layers.length) return;
    const { state } = this;
    const byLayer = state.view === "layers";
    byId("statistics").hidden = !byLayer;
    for (const input of byId("signals").querySelectorAll("input")) {
      input.disabled = !signalColumn.includes(input.value) || !(byLayer || input.value in data.blockStatistics[0].columns);
    }
    const axis = this.axis();
    const signals = data.signals.map((signal) => signal.name).filter((name) => state.signals.has(name) && (byLayer || name in data.blockStatistics[0].columns));
    if (!signals.length) signals.push("activation");
    const statistics = [...new Set([state.left, state.right].filter(Boolean))];
    const panels = byLayer ? layerPanels(axis, signals, statistics) : blockPanels(axis, signals);
    const same = this.drawn && this.drawn.axis === axis;
    const view = {
      axis, panels, flags: byLayer ? flagsOf(axis) : [], columns: byLayer ? statistics.length : data.blockStatistics.length, wanted: state.wanted, marks: byLayer,
      range: same ? this.drawn.range : this.whole(), width: this.paper || byId("plot").clientWidth, revision: `${state.view} ${state.step}`,
    };
    const { traces, layout, places } = figure(view);
    this.drawn = { ...view, places };
    if (!this.started) this.canvas.replaceChildren();
    window.Plotly.react(this.canvas, traces, layout, CONFIG);
    if (!this.started) this.listen();
    this.slider();
    this.legend(panels, places);
    if (this.pinned) this.point(this.pinned.row, this.pinned.panel);
    else this.rest();
  }

  listen() {
    this.started = true;
    this.canvas.on("plotly_hover", (event) => this.hover(event));
    this.canvas.on("plotly_unhover", () => this.rest());
    this.canvas.on("plotly_click", (event) => {
      const found = this.under(event);
      if (!found) return;
      this.pinned = found;
      this.point(found.row, found.panel);
      if (this.state.view === "layers") this.onPick(found.row);
    });
    this.canvas.on("plotly_relayout", () => {
      const range = this.canvas.layout.xaxis.range.map(Number);
      const moved = range.some((end, i) => Math.abs(end - this.drawn.range[i]) > 1e-9);
      const crowded = this.drawn.panels.some((one) => one.x.length > MANY);
      const width = this.drawn.places[0].w;
      const other = named(this.drawn.axis, range, width) !== named(this.drawn.axis, this.drawn.range, width);
      this.drawn.range = range;
      if (moved && (crowded || other)) this.draw();
      else if (moved) this.retick(range);
      if (this.pinned) this.point(this.pinned.row, this.pinned.panel);
      else this.rest();
    });
  }

  // Back to the whole of every axis.
  zoomOut() {
    if (!this.started) return;
    window.Plotly.purge(this.canvas); // forgets the zoom, which drawing anew would keep
    this.started = this.drawn = null;
    this.draw();
  }

  // After zooming: labels that fit what is in view now.
  retick(range) {
    const ink = inks();
    const update = {};
    tickUpdate(this.drawn, this.drawn.places, range, ink, (axis, ticks) => {
      for (const [key, value] of Object.entries(ticks)) update[`${axis}.${key}`] = value;
    });
    update.annotations = [...notes(this.drawn, this.drawn.places, ink), ...stageNames(this.drawn, this.drawn.places, range, ink)];
    window.Plotly.relayout(this.canvas, update);
  }

  // The tensor under the pointer: nearest in depth, and of several at one depth the nearest in height.
  under(event) {
    const hit = event.points.find((point) => point.customdata !== undefined);
    if (!hit) return null;
    const panel = hit.data.meta, one = this.drawn.panels[panel];
    const box = this.canvas.getBoundingClientRect();
    const pointer = event.event ? event.event.clientY - box.top : 0;
    let best = null;
    one.x.forEach((x, at) => {
      if (x !== hit.x) return;
      const away = Math.abs(this.spot(panel, at).top - pointer);
      if (!best || away < best.away) best = { row: one.rows[at], panel, at, away };
    });
    return best;
  }

  hover(event) {
    const found = this.under(event);
    if (!found || this.pinned) return;
    this.point(found.row, found.panel);
  }

  // Pixel position of a panel's tensor; plotly knows where its axes are.
  spot(panel, at) {
    const one = this.drawn.panels[panel], place = this.drawn.places[panel];
    const x = this.canvas._fullLayout[`xaxis${place.key}`], y = this.canvas._fullLayout[`yaxis${place.key}`];
    const value = one.y[at];
    const up = one.nonfinite[at] && !Number.isFinite(value) ? place.top
      : place.scale.name === "log" && (one.zero[at] || value <= 0) ? place.foot : placed(place.scale)(value);
    return { left: x._offset + x.d2p(one.x[at]), top: y._offset + y.d2p(up), from: y._offset, height: y._length, ok: !Number.isNaN(value) };
  }

  // Show one tensor: a line through its layer in every panel, a ring on every value there, and what is known of it.
  point(row, panel) {
    const one = this.drawn.panels[panel];
    const at = one ? one.rows.indexOf(row) : -1;
    if (at < 0) { this.unpin(); this.rest(); return; }
    const x = one.x[at], marks = [];
    const inView = x >= this.drawn.range[0] && x <= this.drawn.range[1];
    this.drawn.panels.forEach((other, index) => {
      const here = other.x.indexOf(x);
      const spot = here >= 0 ? this.spot(index, index === panel ? at : here) : null;
      const frameOf = this.spot(index, Math.max(here, 0));
      const left = this.left(index, x);
      if (!inView || Number.isNaN(left)) return;
      marks.push(element("i", { className: "cross", style: `left:${left}px;top:${frameOf.from}px;height:${frameOf.height}px` }));
      if (spot && spot.ok && spot.top >= spot.from - 1 && spot.top <= spot.from + spot.height + 1) {
        marks.push(element("i", { className: `ring ${other.signal}`, style: `left:${spot.left}px;top:${spot.top}px` }));
      }
    });
    byId("overlay").replaceChildren(...marks);
    const byLayer = this.state.view === "layers";
    byId("tip").replaceChildren(...(byLayer ? describe(row, one.name, one.names[at]) : describeBlock(row, one.name, one.names[at])));
    byId("tip").className = this.pinned ? "pinned" : "";
    byId("tip").dataset.row = row;
    byId("tip").hidden = !inView;
    this.moveTip(this.spot(panel, at));
    byId("position").value = x;
    this.say(one, at);
  }

  left(panel, x) {
    const axis = this.canvas._fullLayout[`xaxis${this.drawn.places[panel].key}`];
    return axis._offset + axis.d2p(x);
  }

  // Beside the crosshair, on the side with more room, and never over the pointer.
  moveTip(spot) {
    const tip = byId("tip"), box = byId("plot");
    const right = spot.left + 18 + tip.offsetWidth <= box.clientWidth;
    const left = right ? spot.left + 18 : Math.max(0, spot.left - 18 - tip.offsetWidth);
    tip.style.left = `${left}px`;
    tip.style.top = `${Math.max(0, Math.min(spot.top - 40, box.clientHeight - tip.offsetHeight))}px`;
  }

  say(one, at) {
    const value = Number.isNaN(one.y[at]) ? "not measured" : shown(one.y[at]);
    byId("readout").textContent = `${one.names[at]}: ${one.short} of ${plurals.get(one.signal)} ${value}`;
  }

  rest() {
    if (this.pinned) return;
    byId("overlay").replaceChildren();
    byId("tip").hidden = true;
  }

  unpin() { this.pinned = null; }

  slider() {
    const position = byId("position"), last = this.drawn.axis.labels.length - 1;
    position.max = last;
    byId("unit").textContent = this.state.view === "layers" ? "Layer" : "Block";
    position.setAttribute("aria-valuetext", this.drawn.axis.labels[position.value] || "");
    if (!byId("readout").textContent) byId("readout").textContent = `${shown(last + 1)} ${this.state.view === "layers" ? "layers" : "merges"}`;
  }

  // The slider: the same as pointing, for keys.
  walk(x) {
    const label = this.drawn.axis.labels[x];
    byId("position").setAttribute("aria-valuetext", label);
    this.unpin();
    const panel = this.drawn.panels.findIndex((one) => one.x.includes(x));
    if (panel < 0) { this.rest(); byId("readout").textContent = `${label}: nothing of what is drawn`; return; }
    this.point(this.drawn.panels[panel].rows[this.drawn.panels[panel].x.indexOf(x)], panel);
  }

  // Change to the view by layer, where text and table point to.
  byLayer() {
    if (this.state.view === "layers") return;
    byId("view").querySelector('[value="layers"]').click();
  }

  // The first of `rows` that is drawn now, an activation if there is one.
  firstDrawn(rows) {
    const panels = this.drawn && this.state.view === "layers" ? this.drawn.panels : [];
    for (const one of panels) {
      const found = rows.find((row) => one.rows.includes(row));
      if (found !== undefined) return found;
    }
    return undefined;
  }

  // Pin a row of the table, if it is among what is drawn.
  show(row) {
    if (!this.drawn) return false;
    this.byLayer();
    const panel = this.drawn.panels.findIndex((one) => one.rows.includes(row));
    this.unpin();
    if (panel < 0) { this.rest(); return false; }
    this.pinned = { row, panel };
    this.point(row, panel);
    return true;
  }

  legend(panels, places) {
    const items = [];
    if (this.state.view === "layers") {
      const used = new Set(panels.flatMap((one) => one.families));
      data.families.forEach((name, at) => { if (used.has(at)) items.push([SYMBOLS[at], name]); });
    } else if (this.drawn.axis.transitions.length) items.push(["dotted", "transition block"]);
    if (panels.some((one, i) => places[i].scale.name === "log" && one.zero.some((zero, k) => zero && !one.nonfinite[k]))) items.push(["zero", "zero, at the foot of a log axis"]);
    if (panels.some((one) => one.nonfinite.some(Boolean))) items.push(["bad", "NaN or infinity"]);
    for (const [severity, name] of [["error", "error"], ["warning", "warning"], ["note", "note"]]) {
      if (this.drawn.flags.some((one) => one.severity === severity)) items.push([`flag ${severity}`, `${name}: see the findings`]);
    }
    byId("legend").replaceChildren(...items.map(([mark, name]) => element("li", {}, element("i", { className: `mark ${mark}` }), name)));
  }
}
