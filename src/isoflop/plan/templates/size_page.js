"use strict";
/* The page around the engine: controls, figure, tables, link and exports. All numbers come from Engine. */
(() => {
  const data = JSON.parse(document.getElementById("plan-data").textContent);
  const $ = id => document.getElementById(id);
  const laws = new Map();
  const specs = new Map(data.laws.map(spec => [spec.name, spec]));
  const law = name => {
    if (!laws.has(name)) laws.set(name, Engine.makeLaw(specs.get(name)));
    return laws.get(name);
  };
  let state = readHash() || { ...data.state };
  let last = null;
  const timings = [];

  /* ------------------------------------------------------------------------------------ writing */

  const SCALES = [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "k"]];
  function digits(value, count) {
    if (value === 0) return "0";
    const decimals = Math.max(0, count - 1 - Math.floor(Math.log10(Math.abs(Number(value.toPrecision(count))))));
    const text = value.toFixed(Math.min(decimals, 20));
    return text.includes(".") ? text.replace(/0+$/, "").replace(/\.$/, "") : text;
  }
  const scientific = (v, d = 3) => {
    const [m, e] = v.toExponential(d - 1).split("e");
    return `${m.includes(".") ? m.replace(/0+$/, "").replace(/\.$/, "") : m}e${Number(e)}`;
  };
  function count(value, d = 3) {
    if (value === 0) return "0";
    value = Number(value.toPrecision(d));
    if (Math.abs(value) >= 999.5e12 || Math.abs(value) < 1e-2) return scientific(value, d);
    for (const [scale, letter] of SCALES) if (Math.abs(value) >= 0.9995 * scale) return digits(value / scale, d) + letter;
    return digits(value, d);
  }
  function percent(share) {
    const value = 100 * share;
    if (Math.abs(value) >= 9.95) return `${value.toFixed(0)}%`;
    return Math.abs(value) >= 0.995 ? `${value.toFixed(1)}%` : `${value.toFixed(2)}%`;
  }
  const plainPercent = share => percent(share).replace(/(\.\d*?)0+%$/, "$1%").replace(/\.%$/, "%");
  const many = value => value < 1e9 ? Number(value.toPrecision(2)).toLocaleString("en") : scientific(value, 2);
  const range = (pair, write) => pair ? `${write(pair[0])} to ${write(pair[1])}` : "";
  const short = value => count(value, 2);
  const node = (tag, attributes = {}, ...children) => {
    const made = document.createElement(tag);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  };

  /* ------------------------------------------------------------------------------------ reading */

  const MAGNITUDES = { k: 1e3, m: 1e6, b: 1e9, g: 1e9, t: 1e12, p: 1e15 };
  function parse(text) {
    const found = /^\s*([0-9][0-9,_]*\.?[0-9]*(?:e[+-]?[0-9]+)?|\.[0-9]+(?:e[+-]?[0-9]+)?)\s*(%|[kmbgtp])?\s*(?:flops?|tokens?|parameters?)?\s*$/i.exec(text);
    if (!found) return null;
    const value = Number(found[1].replace(/[,_]/g, ""));
    const unit = (found[2] || "").toLowerCase();
    const out = value * (unit === "%" ? 0.01 : MAGNITUDES[unit] || 1);
    return out > 0 && Number.isFinite(out) ? out : null;
  }

  function readHash() {
    const given = new URLSearchParams(location.hash.slice(1));
    if (!given.has("C")) return null;
    const read = { ...data.state, T: 0, U: null, x: null, inBudget: false, view: "excess" };
    for (const [key, from, to] of [["C", 1e6, 1e32], ["T", 0, 1e20], ["U", 1, 1e20], ["eps", 1e-4, 0.5]]) {
      const value = given.has(key) ? Number(given.get(key)) : NaN;
      if (value >= from && value <= to) read[key] = value;
    }
    const size = Number(given.get("N")), confidence = Number(given.get("sure"));
    if (size > 1 && size < 1e20) read.x = Math.log(size);
    if ([0.8, 0.9, 0.95, 0.99].includes(confidence)) read.confidence = confidence;
    if (specs.has(given.get("law"))) read.law = given.get("law");
    read.inBudget = given.get("paid") === "1";
    if (given.get("view") === "loss") read.view = "loss";
    return read;
  }
  function hash() {
    const parts = { C: state.C, law: state.law, eps: state.eps, sure: state.confidence };
    if (state.T > 0) parts.T = state.T;
    if (state.U !== null) parts.U = state.U;
    if (state.inBudget) parts.paid = 1;
    if (state.x !== null) parts.N = Number(Math.exp(state.x).toPrecision(6));
    if (state.view === "loss") parts.view = "loss";
    return new URLSearchParams(parts).toString();
  }

  /* ----------------------------------------------------------------------------------- controls */

  const NO_LIMIT = 15, NO_SERVICE = 8.975;
  const CONTROLS = {
    budget: {
      get: () => Math.log10(state.C), set: v => { state.C = Number((10 ** v).toPrecision(3)); },
      text: () => scientific(state.C), typed: t => { const v = parse(t); if (v === null || v < 1e6 || v > 1e32) return false; state.C = v; return true; },
      says: () => data.hardware.flops_per_day > 0 ? `${count(state.C / data.hardware.flops_per_day)} ${data.hardware.device}-days at ${plainPercent(data.hardware.mfu)} of peak` : "",
    },
    serve: {
      get: () => state.T > 0 ? Math.log10(state.T) : 8.9, set: v => { state.T = v < NO_SERVICE ? 0 : Number((10 ** v).toPrecision(2)); },
      text: () => state.T > 0 ? count(state.T) : "none",
      typed: t => { if (/^\s*(none|no|0)?\s*$/i.test(t)) { state.T = 0; return true; } const v = parse(t); if (v === null || v > 1e20) return false; state.T = v; return true; },
      says: () => state.T > 0 ? `${count(state.T)} tokens over its life` : "the plan looks at training alone",
    },
    unique: {
      get: () => state.U === null ? 15.05 : Math.log10(state.U), set: v => { state.U = v > NO_LIMIT ? null : Number((10 ** v).toPrecision(2)); },
      text: () => state.U === null ? "no limit" : count(state.U),
      typed: t => { if (/^\s*(no limit|none|no|unlimited)?\s*$/i.test(t)) { state.U = null; return true; } const v = parse(t); if (v === null || v > 1e20) return false; state.U = v; return true; },
      says: () => state.U === null ? "text never runs out" : !last ? "" : last.out.epochs > 1 ? `read ${digits(last.out.epochs, 2)} times; a token is worth ${percent(last.out.fresh_share)} of a new one` : `enough: ${percent(last.out.epochs)} of them are read`,
    },
    eps: {
      get: () => Math.log10(state.eps), set: v => { state.eps = Number((10 ** v).toPrecision(2)); },
      text: () => plainPercent(state.eps), typed: t => { const v = parse(/%/.test(t) ? t : `${t}%`); if (v === null || v < 1e-4 || v > 0.5) return false; state.eps = v; return true; },
      says: () => `good enough is a loss at most ${plainPercent(state.eps)} above the best`,
    },
    size: {
      get: () => last ? (Math.log(last.out.chosen.N) - last.best.x[0]) / Math.LN10 : 0,
      set: v => { state.x = last.best.x[0] + v * Math.LN10; },
      text: () => last ? count(last.out.chosen.N) : "", typed: t => { const v = parse(t); if (v === null) return false; state.x = Math.log(v); return true; },
      says: () => state.x === null ? "follows the smallest safe size" : "held while the rest moves",
    },
  };

  function showControls(except) {
    for (const [id, control] of Object.entries(CONTROLS)) {
      const slider = $(id), text = $(`${id}-text`);
      if (slider !== except) slider.value = control.get();
      if (text !== except) { text.value = control.text(); text.removeAttribute("aria-invalid"); }
      slider.setAttribute("aria-valuetext", control.text());
      $(`${id}-says`).textContent = control.says();
    }
    $("confidence").value = String(state.confidence);
    $("law").value = state.law;
    $("law-says").textContent = specs.get(state.law).source;
    $("in-budget").checked = state.inBudget;
    $("in-budget-field").hidden = !(state.T > 0);
    $(`view-${state.view}`).checked = true;
  }

  function listen() {
    for (const [id, control] of Object.entries(CONTROLS)) {
      $(id).addEventListener("input", event => { control.set(Number(event.target.value)); update(event.target); });
      $(`${id}-text`).addEventListener("change", event => {
        if (control.typed(event.target.value)) update();
        else event.target.setAttribute("aria-invalid", "true");
      });
    }
    $("controls").addEventListener("submit", event => event.preventDefault());
    $("confidence").addEventListener("change", event => { state.confidence = Number(event.target.value); update(); });
    $("law").addEventListener("change", event => { state.law = event.target.value; update(); });
    $("in-budget").addEventListener("change", event => { state.inBudget = event.target.checked; update(); });
    $("follow").addEventListener("click", () => { state.x = null; update(); });
    for (const view of ["excess", "loss"]) $(`view-${view}`).addEventListener("change", () => { state.view = view; update(); });
    addEventListener("hashchange", () => { const read = readHash(); if (read && hash() !== location.hash.slice(1)) { state = read; update(); } });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { palette = null; draw(); });
    new ResizeObserver(() => { box = null; draw(); }).observe($("plot"));
    let dragging = false;
    const pick = event => {
      const at = frame.toX(event.clientX - $("plot").getBoundingClientRect().left);
      state.x = Math.min(Math.max(at, frame.view.x0), frame.view.x1);
      update();
    };
    $("plot").addEventListener("pointerdown", event => { dragging = true; $("plot").setPointerCapture(event.pointerId); pick(event); });
    $("plot").addEventListener("pointermove", event => { if (dragging) pick(event); });
    for (const end of ["pointerup", "pointercancel"]) $("plot").addEventListener(end, () => { dragging = false; });
    $("copy").addEventListener("click", copyLink);
    $("save-svg").addEventListener("click", () => save(new Blob([figureSvg()], { type: "image/svg+xml" }), "size.svg"));
    $("save-png").addEventListener("click", savePng);
    $("save-csv").addEventListener("click", () => save(new Blob([numbersCsv()], { type: "text/csv" }), "size.csv"));
    $("save-json").addEventListener("click", () => save(new Blob([JSON.stringify(numbers(), null, 1)], { type: "application/json" }), "size.json"));
  }

  /* ------------------------------------------------------------------------------------- update */

  let hashTimer = 0, speechTimer = 0;
  function update(except) {
    const start = performance.now();
    last = Engine.answer(law(state.law), state);
    showControls(except);
    showAnswer();
    showPrices();
    showLifetime();
    showSensitivity();
    draw();
    const took = performance.now() - start;
    timings.push(took);
    if (timings.length > 400) timings.shift();
    const n = last.t.law.n;
    $("timing").textContent = n ? `${n.toLocaleString("en")} draws recomputed and drawn in ${took.toFixed(0)} ms.` : `Recomputed in ${took.toFixed(0)} ms; this law has no draws.`;
    clearTimeout(hashTimer); clearTimeout(speechTimer);
    hashTimer = setTimeout(() => { try { history.replaceState(null, "", `#${hash()}`); } catch { /* a sandboxed frame */ } }, 250);
    speechTimer = setTimeout(() => { $("spoken").textContent = `${$("answer").innerText}. ${$("safe-N").textContent}: ${$("safe-says").innerText}`; }, 700);
  }

  function showAnswer() {
    const { out } = last, n = last.t.law.n, spec = specs.get(state.law);
    $("headline-N").textContent = count(out.N_opt);
    $("headline-D").textContent = count(out.D_opt);
    const beyond = spec.largest_flops && state.C > spec.largest_flops ? ` The budget is ${many(state.C / spec.largest_flops)} times the largest run behind the law.`
      : spec.smallest_flops && state.C < spec.smallest_flops ? " The budget is below the smallest run behind the law." : "";
    $("headline-sub").textContent = (n
      ? `In 95% of ${n.toLocaleString("en")} refits of the law the best size lies between ${range(out.N_opt_ci95, short).replace(" to ", " and ")}.`
      : `No interval: ${spec.why_no_draws}.`) + beyond;
    $("best-N").textContent = count(out.N_opt);
    $("best-says").textContent = `${count(out.D_opt)} tokens, ${digits(out.tokens_per_parameter, 3)} per parameter. Loss ${out.loss_opt.toFixed(3)}${out.loss_opt_ci95 ? ` (${range(out.loss_opt_ci95, v => v.toFixed(3))})` : ""}. From ${short(out.basin_1pct.N_lo)} to ${short(out.basin_1pct.N_hi)} the loss is within 1%.`;
    const safe = out.smallest_within, tolerance = plainPercent(state.eps);
    $("safe-N").textContent = safe.N === null ? "none" : count(safe.N);
    $("safe-says").textContent = safe.N === null
      ? `No size is within ${tolerance} in ${plainPercent(state.confidence)} of the refits; the surest, ${count(safe.surest_N)}, is in ${percent(safe.probability)}.`
      : `${safe.probability === null ? `Within ${tolerance} if the law is exactly right` : `Within ${tolerance} in ${percent(safe.probability)} of the refits`}. ${worthSays(safe.priced)}`;
    const yours = out.chosen;
    $("yours-N").textContent = count(yours.N);
    $("yours-says").textContent = state.x === null
      ? "Follows the smallest safe size. Move the slider, or click in the figure, to price a size of your own."
      : `${percent(yours.excess)} above the best${yours.probability === null ? "" : `, within ${tolerance} in ${percent(yours.probability)} of the refits`}. ${worthSays(yours)}`;
    $("follow").hidden = state.x === null;
    $("yours-N").closest(".card").classList.toggle("follows", state.x === null);
    $("caption").textContent = state.view === "excess"
      ? `Loss above the best when the same budget is spent on another size. ${n ? `Each of the ${n.toLocaleString("en")} refits is one bowl, measured from its own lowest point; the line is the law itself.` : "The line is the law."} The bar on the axis holds 95% of the best sizes. Click or drag to choose your size.`
      : `Loss in nats per token over model size. ${n ? `Each of the ${n.toLocaleString("en")} refits is one bowl; the line is the law itself.` : "The line is the law."} The bar on the axis holds 95% of the best sizes. Click or drag to choose your size.`;
  }
  function worthSays(size) {
    const spread = size.compute_kept_ci95 ? ` (${range(size.compute_kept_ci95, percent)})` : "";
    return `An ideally sized model would do as well on ${percent(size.compute_kept)} of this budget${spread}. Serving costs ${digits(size.serving_cost, 2)} times the best size's.`;
  }

  function showPrices() {
    const { out } = last, rows = [...out.price_list.map(row => [row, ""])];
    rows.find(([row]) => Math.abs(Math.log(row.N / out.N_opt)) < 1e-9)[1] = "best";
    if (out.smallest_within.priced) rows.push([out.smallest_within.priced, "safe"]);
    if (state.x !== null) rows.push([out.chosen, "yours"]);
    rows.sort((one, other) => other[0].N - one[0].N);
    const names = { best: "best", safe: "smallest safe", yours: "yours", "": "" };
    $("prices").closest("table").classList.toggle("no-epochs", state.U === null);
    $("prices").replaceChildren(...rows.map(([row, what]) => {
      const head = node("th", { scope: "row" }, count(row.N));
      if (what) head.append(node("small", {}, names[what]));
      const meter = node("div", { class: "meter" }, node("i", { style: `width:${100 * row.compute_kept}%` }));
      if (row.compute_kept_ci95) {
        const [low, high] = row.compute_kept_ci95.map(v => Math.min(v, 1));
        meter.append(node("b", { style: `left:${100 * low}%;width:${100 * (high - low)}%` }));
      }
      const says = node("span", {}, what === "best" ? "100% " : `${percent(row.compute_kept)} `);
      if (row.compute_kept_ci95 && what !== "best") says.append(node("small", {}, range(row.compute_kept_ci95, percent)));
      return node("tr", { class: what ? `is-${what}` : "" }, head,
        node("td", { class: "num wide" }, count(row.D)),
        node("td", { class: "num epochs" }, row.epochs === null ? "" : row.epochs < 100 ? digits(row.epochs, 2) : count(row.epochs, 2)),
        node("td", { class: "num wide" }, row.loss.toFixed(3)),
        node("td", { class: "num" }, what === "best" ? "–" : percent(row.excess)),
        node("td", {}, node("div", { class: "worth" }, meter, says)),
        node("td", { class: "num" }, `${digits(row.serving_cost, 2)}×`));
    }));
    const tenth = out.last_decade;
    $("decade").replaceChildren("The last factor of ten in size, ", node("strong", {}, `${count(tenth.N)} to ${count(out.N_opt)}`),
      `, lowers the loss by ${percent(1 - out.loss_opt / tenth.loss)}: as much as ${digits(1 / tenth.compute_kept, 2)} times the compute would${tenth.compute_kept_ci95 ? ` (${range([...tenth.compute_kept_ci95].reverse(), v => digits(1 / v, 2))})` : ""}.`);
  }

  function showLifetime() {
    const life = last.out.lifetime, place = $("life-says");
    if (!life) {
      place.replaceChildren(node("p", {}, state.T > 0 ? `Serving ${count(state.T)} tokens is paid from the budget and is in every number on this page.` : "Say how many tokens it will serve to see the size that is cheapest over its whole life."));
      return;
    }
    const sized = size => `${count(size.N)}${size.N_ci95 ? ` (${range(size.N_ci95, short)})` : ""} on ${count(size.D)} tokens`;
    place.replaceChildren(
      node("p", {}, `Serving ${count(state.T)} tokens costs ${digits(2 * last.out.N_opt * state.T / state.C, 2)} times the training of the best size. Training and serving together:`),
      node("p", {}, node("strong", {}, "The same loss for the least compute: "), `${sized(life.same_loss)}, ${percent(-life.same_loss.change)} less in all.`),
      node("p", {}, node("strong", {}, "The lowest loss for the same compute: "), `${sized(life.same_total)}, loss ${life.same_total.loss.toFixed(3)}, as from ${digits(life.same_total.compute_gain, 2)} times the training budget.`),
      node("p", {}, `Below ${count(life.floor_N)} no amount of text reaches the loss of ${last.out.loss_opt.toFixed(3)}.`));
  }

  /* The best size under each other choice, at the present state. */
  function otherChoices() {
    const rows = [], base = { C: state.C, U: state.U, served: state.inBudget ? state.T : 0 };
    const at = (entry, options) => Math.exp(Engine.terrain(entry, options).optimum().x[0]);
    for (const choice of data.choices) {
      if (choice.only_law && choice.only_law !== state.law) continue;
      if (choice.needs === "U" && state.U === null) continue;
      if (choice.needs === "served" && !base.served) continue;
      if (choice.rule) {  // a published rule knows a size and no loss: it ignores repetition and serving
        const repeats = state.U !== null && last.out.D_opt > state.U;
        if (!repeats && !base.served) rows.push({ label: choice.label, group: choice.group, N: choice.rule.N * (state.C / choice.rule.C) ** choice.rule.exponent });
        continue;
      }
      const entry = choice.point ? Engine.makeLaw({ point: choice.point, draws: null }) : pointOf(choice.law || state.law);
      if (choice.law === state.law) continue;
      const options = { ...base, C: state.C * (choice.budget_factor || 1) };
      if (choice.needs === "U") options.U = null;
      if (choice.needs === "served") options.served = 0;
      rows.push({ label: choice.label, group: choice.group, N: at(entry, options) });
    }
    return rows;
  }
  const points = new Map();
  function pointOf(name) {
    if (!points.has(name)) points.set(name, Engine.makeLaw({ ...specs.get(name), draws: null }));
    return points.get(name);
  }

  function showSensitivity() {
    const rows = otherChoices(), { out } = last, ci = out.N_opt_ci95;
    const all = [out.N_opt, ...rows.map(row => row.N), ...(ci || [])].map(Math.log10);
    const low = Math.min(...all) - 0.08, high = Math.max(...all) + 0.08;
    const place = N => 100 * (Math.log10(N) - low) / (high - low);
    const track = (N, kind) => {
      const made = node("div", { class: "track", "aria-hidden": "true" });
      if (ci) made.append(node("b", { style: `left:${place(ci[0])}%;width:${place(ci[1]) - place(ci[0])}%` }));
      made.append(node("i", { class: kind, style: `left:${place(N)}%` }));
      return made;
    };
    const outside = N => ci !== null && (N < ci[0] || N > ci[1]);
    last.choices = rows;
    $("sensitivity").replaceChildren(
      node("li", {}, node("span", {}, `As planned: ${specs.get(state.law).title}`), track(out.N_opt, "own"), node("span", { class: "num" }, count(out.N_opt))),
      ...rows.map(row => node("li", {}, node("span", {}, row.label), track(row.N, outside(row.N) ? "" : "off"), node("span", { class: "num" }, count(row.N)))));
  }

  /* ------------------------------------------------------------------------------------- figure */

  const FAN_COLUMNS = 251, FAN_ROWS = 170, DECADES = 1.5;
  let frame = null;
  let palette = null, shades = null, box = null;  // looked up once: asking the browser again would cost a layout
  function colours() {
    if (palette) return palette;
    const style = getComputedStyle(document.documentElement);
    palette = Object.fromEntries(["ink", "muted", "rule", "axis", "paper", "accent", "safe", "yours"].map(name => [name, style.getPropertyValue(`--${name}`).trim()]));
    return palette;
  }

  function view() {
    const { t, best, out } = last, relative = state.view === "excess";
    const x0 = best.x[0] - DECADES * Math.LN10, x1 = Math.min(best.x[0] + DECADES * Math.LN10, t.top(0) - 0.02);
    const top = Math.max(0.04, 2.2 * state.eps);
    if (relative) return { x0, x1, y0: 0, y1: top, relative };
    const floor = out.loss_opt_ci95 ? out.loss_opt_ci95[0] : out.loss_opt;
    return { x0, x1, y0: floor - 0.004 * out.loss_opt, y1: out.loss_opt * (1 + top), relative };
  }

  function draw() {
    if (!last) return;
    box = box || $("plot").getBoundingClientRect();
    const width = Math.max(box.width, 260), height = Math.max(box.height, 200);
    const pad = { left: 46, right: 12, top: 44, bottom: 46 };
    const v = view(), w = width - pad.left - pad.right, h = height - pad.top - pad.bottom;
    frame = {
      view: v, width, height, pad, w, h,
      px: x => pad.left + w * (x - v.x0) / (v.x1 - v.x0), py: y => pad.top + h * (1 - (y - v.y0) / (v.y1 - v.y0)),
      toX: px => v.x0 + (px - pad.left) / w * (v.x1 - v.x0),
    };
    drawFan();
    $("ink").setAttribute("viewBox", `0 0 ${width} ${height}`);
    for (const old of [...$("ink").querySelectorAll(":scope > g")]) old.remove();
    $("ink").insertAdjacentHTML("beforeend", inkMarkup());
    const o = last.out;
    $("plot-says").textContent = `The lowest loss, ${o.loss_opt.toFixed(3)}, is at ${count(o.N_opt)} parameters. Sizes from ${count(o.basin.N_lo)} to ${count(o.basin.N_hi)} are within ${plainPercent(state.eps)} of it.`;
  }

  function drawFan() {
    const canvas = $("fan"), { t, best } = last;
    Object.assign(canvas.style, { left: `${frame.pad.left}px`, top: `${frame.pad.top}px`, width: `${frame.w}px`, height: `${frame.h}px` });
    canvas.width = FAN_COLUMNS; canvas.height = FAN_ROWS;
    if (!t.law.n) return;
    const counts = Engine.density(t, best, frame.view, FAN_COLUMNS, FAN_ROWS);
    const [r, g, b] = colours().accent.match(/[0-9a-f]{2}/gi).map(part => parseInt(part, 16));
    const picture = new ImageData(FAN_COLUMNS, FAN_ROWS), pixels = new Uint32Array(picture.data.buffer);
    if (!shades || shades.length !== t.law.n + 2) shades = new Uint32Array(t.law.n + 2);
    for (let k = 1; k < shades.length; k++) {  // little-endian RGBA; a single bowl stays visible
      const alpha = Math.round(255 * (0.05 + 0.6 * (1 - Math.exp(-55 * k / t.law.n))));
      shades[k] = (alpha << 24 | b << 16 | g << 8 | r) >>> 0;
    }
    for (let i = 0; i < counts.length; i++) pixels[i] = shades[counts[i]];
    canvas.getContext("2d").putImageData(picture, 0, 0);
  }

  function sizeTicks() {
    const { x0, x1 } = frame.view, ticks = [];
    for (let d = Math.ceil(x0 / Math.LN10 - 1e-9); d <= x1 / Math.LN10; d++) ticks.push(d);
    return ticks;
  }
  function levelTicks() {
    const { y0, y1 } = frame.view, span = y1 - y0;
    const rough = span / 4, unit = 10 ** Math.floor(Math.log10(rough)), step = [1, 2, 5, 10].find(k => k * unit >= rough) * unit;
    const ticks = [];
    for (let y = Math.ceil(y0 / step) * step; y <= y1 + 1e-12; y += step) ticks.push(y);
    return { ticks, step };
  }

  function inkMarkup() {
    const { view: v, pad, w, h, px, py } = frame, { t, best, basin, out } = last;
    const c = colours();
    const font = `font-family="system-ui, -apple-system, 'Segoe UI', Roboto, Arial, sans-serif" font-size="12.5"`;
    const parts = [], y = N => v.relative ? t.loss(0, N) / best.L[0] - 1 : t.loss(0, N);
    const line = (x1, y1, x2, y2, stroke, more = "") => `<line x1="${x1.toFixed(1)}" y1="${y1.toFixed(1)}" x2="${x2.toFixed(1)}" y2="${y2.toFixed(1)}" stroke="${stroke}" ${more}/>`;
    const text = (x, yy, words, anchor = "middle", fill = c.muted, more = "") => `<text x="${x.toFixed(1)}" y="${yy.toFixed(1)}" text-anchor="${anchor}" fill="${fill}" stroke="${c.paper}" stroke-width="3.5" stroke-linejoin="round" paint-order="stroke" ${more}>${words}</text>`;
    const bottom = pad.top + h;
    const { ticks, step } = levelTicks();
    for (const tick of ticks) {
      const at = py(tick);
      parts.push(line(pad.left, at, pad.left + w, at, c.rule, `stroke-width="1"`));
      const label = v.relative ? (tick === 0 ? "best" : `+${plainPercent(tick)}`) : tick.toFixed(Math.max(0, -Math.floor(Math.log10(step) + 1e-9)));
      parts.push(text(pad.left - 7, at + 4, label, "end"));
    }
    // Basin of the law itself at the chosen tolerance.
    const left = Math.max(px(basin.lo[0]), pad.left), right = Math.min(px(basin.hi[0]), pad.left + w);
    const level = v.relative ? state.eps : best.L[0] * (1 + state.eps);
    if (right > left) parts.push(line(left, py(level), right, py(level), c.ink, `stroke-width="1" stroke-dasharray="2 4"`));
    for (const d of sizeTicks()) {
      const at = px(d * Math.LN10);
      parts.push(line(at, bottom, at, bottom + 5, c.axis), text(at, bottom + 19, count(10 ** d)));
      for (const k of [2, 5]) {
        const minor = px((d + Math.log10(k)) * Math.LN10);
        if (minor < pad.left + w) parts.push(line(minor, bottom, minor, bottom + 3, c.axis));
      }
    }
    parts.push(line(pad.left, bottom, pad.left + w, bottom, c.axis), text(pad.left + w / 2, bottom + 38, "parameters"));
    let path = "";
    for (let k = 0; k <= 160; k++) {
      const x = v.x0 + k / 160 * (v.x1 - v.x0), at = py(y(x));
      if (at >= pad.top - 0.5) path += `${path ? "L" : "M"}${px(x).toFixed(1)} ${at.toFixed(1)}`;
    }
    parts.push(`<path d="${path}" fill="none" stroke="${c.accent}" stroke-width="2.2" stroke-linejoin="round" stroke-linecap="round"/>`);
    if (out.N_opt_ci95) {
      const [low, high] = out.N_opt_ci95.map(N => Math.min(Math.max(px(Math.log(N)), pad.left), pad.left + w));
      parts.push(line(low, bottom, high, bottom, c.accent, `stroke-width="5" stroke-linecap="round"`));
    }
    parts.push(...marks(c, text, line, y, bottom));
    return `<g ${font}>${parts.join("")}</g>`;
  }

  /* Best, smallest safe and yours: a stem from the axis to the line, a label on top, on two rows if close. */
  function marks(c, text, line, y, bottom) {
    const { px, py, pad, w } = frame, { out, best } = last, wanted = [];
    wanted.push({ x: best.x[0], name: `best ${count(out.N_opt)}`, fill: c.accent, kind: "best" });
    if (out.smallest_within.N !== null) wanted.push({ x: Math.log(out.smallest_within.N), name: `smallest safe ${count(out.smallest_within.N)}`, fill: c.safe, kind: "safe" });
    if (state.x !== null) wanted.push({ x: Math.log(out.chosen.N), name: `yours ${count(out.chosen.N)}`, fill: c.yours, kind: "yours" });
    const made = [], rows = [];
    for (const mark of wanted.filter(one => px(one.x) >= pad.left - 1 && px(one.x) <= pad.left + w + 1).sort((a, b) => a.x - b.x)) {
      const at = px(mark.x), top = Math.max(py(y(mark.x)), pad.top), half = 3.6 * mark.name.length;
      const middle = Math.min(Math.max(at, pad.left + half - 30), pad.left + w - half + 4);
      let row = 0;
      while (rows[row] !== undefined && rows[row] > middle - half - 8) row++;
      rows[row] = middle + half;
      const labelY = pad.top - 10 - 15 * row;
      made.push(line(at, labelY + 4, at, bottom, mark.fill, `stroke-width="${mark.kind === "yours" ? 1.8 : 1}" ${mark.kind === "yours" ? "" : `stroke-dasharray="1 3"`}`));
      if (mark.kind === "best") made.push(`<circle cx="${at.toFixed(1)}" cy="${top.toFixed(1)}" r="5" fill="${c.accent}" stroke="${c.paper}" stroke-width="1.5"/>`);
      if (mark.kind === "safe") made.push(`<circle cx="${at.toFixed(1)}" cy="${top.toFixed(1)}" r="5" fill="${c.paper}" stroke="${c.safe}" stroke-width="2.4"/>`);
      made.push(text(middle, labelY, mark.name, "middle", mark.fill, `font-weight="600"`));
    }
    return made;
  }

  /* ------------------------------------------------------------------------------------ exports */

  function figureSvg() {
    const fan = $("fan").toDataURL("image/png"), { pad, w, h, width, height } = frame;
    return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}"><title>Loss over model size at ${scientific(state.C)} FLOPs</title><rect width="100%" height="100%" fill="${colours().paper}"/><image x="${pad.left}" y="${pad.top}" width="${w}" height="${h}" preserveAspectRatio="none" href="${fan}"/>${inkMarkup()}</svg>`;
  }
  function savePng() {
    const url = URL.createObjectURL(new Blob([figureSvg()], { type: "image/svg+xml" })), image = new Image();
    image.onload = () => {
      const canvas = document.createElement("canvas");
      canvas.width = 2 * frame.width; canvas.height = 2 * frame.height;
      canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
      canvas.toBlob(blob => save(blob, "size.png"), "image/png");
      URL.revokeObjectURL(url);
    };
    image.src = url;
  }
  function numbers() {
    const spec = specs.get(state.law);
    return {
      state: { budget_flops: state.C, serve_tokens: state.T, serve_in_budget: state.inBudget, unique_tokens: state.U, eps: state.eps, confidence: state.confidence },
      law: { name: spec.name, source: spec.source, E_A_B_alpha_beta: spec.point, draws: last.t.law.n },
      ...last.out, sensitivity: last.choices, link: `#${hash()}`,
    };
  }
  function numbersCsv() {
    const columns = ["N", "D", "epochs", "loss", "excess", "excess_lo95", "excess_hi95", "compute_kept", "compute_kept_lo95", "compute_kept_hi95", "serving_cost", "label"];
    const cell = value => value === null || value === undefined ? "" : String(value);
    const line = (row, label) => [row.N, row.D, row.epochs, row.loss, row.excess, ...(row.excess_ci95 || ["", ""]), row.compute_kept, ...(row.compute_kept_ci95 || ["", ""]), row.serving_cost, label].map(cell).join(",");
    const { out } = last, lines = out.price_list.map(row => line(row, Math.abs(Math.log(row.N / out.N_opt)) < 1e-9 ? "best" : ""));
    if (out.smallest_within.priced) lines.push(line(out.smallest_within.priced, "smallest safe"));
    lines.push(line(out.chosen, "yours"), line(out.last_decade, "a tenth of the best"));
    return `${columns.join(",")}\n${lines.join("\n")}\n`;
  }
  function save(blob, name) {
    const link = node("a", { href: URL.createObjectURL(blob), download: name });
    document.body.append(link); link.click(); link.remove();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    $("taken").textContent = `Saved ${name}.`;
  }
  async function copyLink() {
    const link = `${location.href.split("#")[0]}#${hash()}`;
    try { history.replaceState(null, "", `#${hash()}`); } catch { /* a sandboxed frame */ }
    try { await navigator.clipboard.writeText(link); $("taken").textContent = "Link copied."; $("copy").textContent = "Copied"; }
    catch { $("taken").textContent = "The link is in the address bar."; $("copy").textContent = "It is in the address bar"; }
    setTimeout(() => { $("copy").textContent = "Copy link to this state"; }, 2500);
  }

  /* -------------------------------------------------------------------------------------- start */

  for (const spec of data.laws) $("law").append(node("option", { value: spec.name }, spec.title));
  $("source").textContent = data.reading;
  $("notes").replaceChildren(...data.notes.map(text => node("li", {}, text)));
  listen();
  update();
  window.isoflop = {
    get state() { return state; }, get numbers() { return numbers(); }, timings,
    set(changes) { Object.assign(state, changes); update(); }, hash, figureSvg, numbersCsv,
  };
})();
