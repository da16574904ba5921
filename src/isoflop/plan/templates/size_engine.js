"use strict";
/* The planner's arithmetic in the browser: the same formulas as plan/price.py, over all draws at once.

   A law is a struct of arrays: entry 0 is the point estimate, entries 1 to n are the bootstrap draws, so one
   pass answers both. x is log N throughout. No part of this file touches the document. */
const Engine = (() => {
  const K = 6, SERVE = 2, R_D = 15.387756, R_N = 5.309743;
  const TOLERANCE = 1e-6;  // in log N; the step after the last one is quadratically smaller

  function floats(base64) {
    const text = atob(base64), bytes = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
    return new Float32Array(bytes.buffer);
  }

  /* spec: {name, point: [E, A, B, alpha, beta], draws: base64 of float32 [n][5] or null} */
  function makeLaw(spec) {
    const drawn = spec.draws ? floats(spec.draws) : new Float32Array(0);
    const n = drawn.length / 5, size = n + 1;
    const law = { name: spec.name, n, size };
    for (const key of ["E", "lnA", "lnB", "alpha", "beta", "lnAlpha", "lnBeta", "lnG", "a", "b", "gamma"]) law[key] = new Float64Array(size);
    // In the order of beta / alpha, so that each entry's root is close to its neighbour's.
    const order = [...Array(n).keys()].sort((i, j) => drawn[5 * i + 4] / drawn[5 * i + 3] - drawn[5 * j + 4] / drawn[5 * j + 3]);
    for (let i = 0; i < size; i++) {
      const from = i ? 5 * order[i - 1] : 0, p = i ? drawn.subarray(from, from + 5) : spec.point;
      const [E, A, B, al, be] = p;
      law.E[i] = E; law.lnA[i] = Math.log(A); law.lnB[i] = Math.log(B); law.alpha[i] = al; law.beta[i] = be;
      law.lnAlpha[i] = Math.log(al); law.lnBeta[i] = Math.log(be);
      law.lnG[i] = (Math.log(al * A) - Math.log(be * B)) / (al + be);
      law.a[i] = be / (al + be); law.b[i] = al / (al + be); law.gamma[i] = al * be / (al + be);
    }
    return law;
  }

  /* A root of an increasing function inside (lo, hi): secant steps, halving whenever one would leave.
     `slope` is a guess for the first step; `root.slope` is what was found, for a neighbour's first step. */
  function root(f, start, slope, lo, hi) {
    let x = start > lo && start < hi ? start : 0.5 * (lo + hi), fx = f(x), before = 0, fb = 0;
    root.slope = slope;
    for (let turn = 0; turn < 80; turn++) {
      if (fx === 0) return x;
      if (fx > 0) hi = x; else lo = x;
      let next = x - fx / root.slope;
      if (!(next > lo && next < hi)) next = 0.5 * (lo + hi);
      // A slope taken from far away can make a tiny step far from the root: such a step does not end it.
      if (Math.abs(next - x) < TOLERANCE && (turn === 0 || Math.abs(x - before) < 0.01)) return next;
      before = x; fb = fx;
      x = next; fx = f(x);
      const found = (fx - fb) / (x - before);
      root.slope = found > 0 && Number.isFinite(found) ? found : slope;
    }
    return x;
  }

  /* A budget's valley under every entry of a law. options: {C, U (null: no limit), served (paid from C)} */
  function terrain(law, options) {
    const { C, U = null, served = 0 } = options;
    const C_of = typeof C === "number" ? () => C : i => C[i];
    const t = { law, options, C_of };
    const lnU = U === null ? Infinity : Math.log(U);
    const off = SERVE / K * served;
    // Size that the unique tokens can feed: the law's path read backwards.
    const fed = i => (1 + law.a[i] / law.b[i]) * law.lnG[i] + law.a[i] / law.b[i] * lnU;
    let N_gain = 0, D_gain = 0;  // log elasticities left behind by terms()
    let lnFed = Infinity;
    let size = 0, data = 0;

    function terms(i, x, lnUnits) {
      let lnTrained = lnUnits - x, lnD = lnTrained;
      D_gain = 0; N_gain = 0;
      if (off > 0) {
        const D = Math.exp(lnTrained) - off;
        if (!(D > 0)) { size = law.lnA[i] - law.alpha[i] * x; data = Infinity; D_gain = Infinity; return; }
        lnD = Math.log(D); D_gain = lnTrained - lnD;
      }
      let worthN = x, worthD = lnD;
      if (U !== null) {
        if (lnD > lnU) {
          const r = (Math.exp(lnD - lnU) - 1) / R_D;
          worthD = lnU + Math.log(1 - R_D * Math.expm1(-r));
          D_gain += lnD - worthD - r;
        }
        if (x > lnFed) {
          const r = (Math.exp(x - lnFed) - 1) / R_N;
          worthN = lnFed + Math.log(1 - R_N * Math.expm1(-r));
          N_gain = x - worthN - r;
        }
      }
      size = law.lnA[i] - law.alpha[i] * worthN;
      data = law.lnB[i] - law.beta[i] * worthD;
    }

    t.reducible = (i, x) => {
      lnFed = U === null ? Infinity : fed(i);
      terms(i, x, Math.log(C_of(i) / K));
      return Math.exp(size) + Math.exp(data);
    };
    t.loss = (i, x) => law.E[i] + t.reducible(i, x);
    /* The same for one size and many entries: what the tokens are worth is common to all. */
    t.lossAt = x => {
      const D = t.tokens(x), lnWorth = Math.log(U === null ? D : worth(D, U, R_D));
      return i => {
        let worthN = x;
        if (U !== null) {
          const from = fed(i);
          if (x > from) worthN = from + Math.log(1 - R_N * Math.expm1(-(Math.exp(x - from) - 1) / R_N));
        }
        return law.E[i] + Math.exp(law.lnA[i] - law.alpha[i] * worthN) + Math.exp(law.lnB[i] - law.beta[i] * lnWorth);
      };
    };
    t.tokens = x => Math.max(C_of(0) / K * Math.exp(-x) - off, 0);
    t.top = served > 0 ? i => Math.log(C_of(i) / (SERVE * served)) : () => Infinity;

    /* log N and loss of the optimum, each [size] */
    t.optimum = () => {
      const x = new Float64Array(law.size), L = new Float64Array(law.size);
      let shift = 0, slope = 0.7, entry = 0, lnUnits = 0;
      const tilt = at => {
        terms(entry, at, lnUnits);
        return law.lnBeta[entry] + data + D_gain - law.lnAlpha[entry] - size - N_gain;
      };
      for (let i = 0; i < law.size; i++) {
        entry = i; lnUnits = Math.log(C_of(i) / K);
        const plain = law.lnG[i] + law.a[i] * lnUnits;
        if (off === 0 && lnUnits - plain <= lnU) { x[i] = plain; }
        else {
          lnFed = U === null ? Infinity : fed(i);
          const top = t.top(i);
          x[i] = root(tilt, Math.min(plain + shift, top - 1e-3), slope,
                      Math.min(plain, top) - 40, Math.min(plain + 40, top));
          shift = x[i] - plain; slope = root.slope;
        }
        L[i] = t.loss(i, x[i]);
      }
      return { x, L };
    };

    /* Edges of the basin, log N, each [size] */
    t.basin = (best, eps, only = law.size) => {
      const lo = new Float64Array(only), hi = new Float64Array(only);
      let left = 1, right = 1, down = 0.3, up = 0.3, entry = 0, lnUnits = 0, target = 0;
      const above = at => {
        terms(entry, at, lnUnits);
        return Math.log(Math.exp(size) + Math.exp(data)) - target;
      };
      const below = at => -above(at);
      for (let i = 0; i < only; i++) {
        entry = i; lnUnits = Math.log(C_of(i) / K); target = Math.log((1 + eps) * best.L[i] - law.E[i]);
        lnFed = U === null ? Infinity : fed(i);
        lo[i] = root(below, best.x[i] - left, down, best.x[i] - 40, best.x[i]);
        down = root.slope;
        hi[i] = root(above, best.x[i] + right, up, best.x[i], Math.min(best.x[i] + 40, t.top(i)));
        up = root.slope;
        left = best.x[i] - lo[i]; right = hi[i] - best.x[i];
      }
      return { lo, hi };
    };
    return t;
  }

  /* The k-th smallest, by Hoare's selection; afterwards everything right of k is at least as large. */
  function select(v, k, left, right) {
    while (right > left) {
      const pivot = v[(left + right) >> 1];
      let i = left, j = right;
      while (i <= j) {
        while (v[i] < pivot) i++;
        while (v[j] > pivot) j--;
        if (i <= j) { const hold = v[i]; v[i++] = v[j]; v[j--] = hold; }
      }
      if (k <= j) right = j; else if (k >= i) left = i; else break;
    }
    return v[k];
  }

  /* Quantiles over entries 1..n (numpy's linear rule), for ascending q; null without draws. */
  const scratch = new Map();
  function quantiles(values, wanted) {
    const n = values.length - 1;
    if (n < 1) return null;
    if (!scratch.has(n)) scratch.set(n, new Float64Array(n));
    const v = scratch.get(n);
    v.set(values.subarray(1));
    let from = 0;
    return wanted.map(q => {
      const at = q * (n - 1), k = Math.floor(at), rest = at - k, low = select(v, k, from, n - 1);
      from = k;
      if (!rest) return low;
      let next = Infinity;
      for (let i = k + 1; i < n; i++) if (v[i] < next) next = v[i];
      return low + rest * (next - low);
    });
  }
  const ends = values => quantiles(values, [0.025, 0.975]);

  /* Smallest size in the basin of at least `confidence` of the draws. */
  function smallestSafe(basin, confidence) {
    const n = basin.lo.length - 1;
    if (n < 1) return { x: basin.lo[0], share: null, surest: basin.lo[0] };
    const lows = basin.lo.slice(1).sort(), highs = basin.hi.slice(1).sort();
    let left = 0, best = -1, surest = lows[0];
    for (let j = 0; j < n; j++) {
      while (left < n && highs[left] < lows[j]) left++;
      const share = (j + 1 - left) / n;
      if (share >= confidence) return { x: lows[j], share, surest: lows[j] };
      if (share > best) { best = share; surest = lows[j]; }
    }
    return { x: null, share: best, surest };
  }

  function shareWithin(basin, x) {
    const n = basin.lo.length - 1;
    if (n < 1) return null;
    let inside = 0;
    for (let i = 1; i <= n; i++) if (basin.lo[i] <= x && basin.hi[i] >= x) inside++;
    return inside / n;
  }

  /* What one size gives and costs: loss, excess, share of the compute it is worth, with intervals. */
  function priced(t, best, x) {
    const law = t.law, excess = new Float64Array(law.size), kept = new Float64Array(law.size);
    const at = t.lossAt(x);
    let loss0 = 0;
    for (let i = 0; i < law.size; i++) {
      const L = at(i);
      if (!i) loss0 = L;
      excess[i] = L / best.L[i] - 1;
      kept[i] = Math.exp(-Math.log((L - law.E[i]) / (best.L[i] - law.E[i])) / law.gamma[i]);
    }
    const tokens = t.tokens(x);
    return {
      N: Math.exp(x), D: tokens, loss: loss0, excess: Math.max(excess[0], 0), excess_ci95: ends(excess),
      compute_kept: Math.min(kept[0], 1), compute_kept_ci95: ends(kept),
      serving_cost: Math.exp(x - best.x[0]), tokens_per_parameter: tokens * Math.exp(-x),
      epochs: t.options.U === null || t.options.U === undefined ? null : tokens / t.options.U,
    };
  }

  /* The cheapest way, training and serving together, to each entry's loss. Returns log N [size] and entry 0. */
  function cheapestForLoss(law, L, T, U, fallback) {
    const x = new Float64Array(law.size), lnU = U === null ? Infinity : Math.log(U);
    let first = null, warm = null, slope = 1;
    for (let i = 0; i < law.size; i++) {
      const R = Math.log(L[i] - law.E[i]), al = law.alpha[i], be = law.beta[i];
      const lnFed = U === null ? Infinity : (1 + law.a[i] / law.b[i]) * law.lnG[i] + law.a[i] / law.b[i] * lnU;
      // Ends of the data term's share y: beyond them the unique tokens, or the size they feed, are used up.
      let low = -80, high = -1e-9;
      if (U !== null) {
        low = Math.max(low, law.lnB[i] - R - be * (lnU + Math.log(1 + R_D)));
        high = Math.min(high, Math.log1p(-Math.exp(law.lnA[i] - R - al * (lnFed + Math.log(1 + R_N)))));
      }
      let lnN = 0, lnD = 0;
      const price = lny => {
        const ln1y = Math.log1p(-Math.exp(lny));
        lnN = (law.lnA[i] - R - ln1y) / al; lnD = (law.lnB[i] - R - lny) / be;
        let gain = 0;
        if (lnD > lnU) {
          const r = -Math.log1p(-Math.expm1(lnD - lnU) / R_D), full = lnU + Math.log(1 + R_D * r);
          gain -= full - lnD - r;
          lnD = full;
        }
        if (lnN > lnFed) {
          const r = -Math.log1p(-Math.expm1(lnN - lnFed) / R_N), full = lnFed + Math.log(1 + R_N * r);
          gain += full - lnN - r;
          lnN = full;
        }
        return Math.log1p(SERVE * T / K * Math.exp(-lnD)) - (Math.log(al) + ln1y + gain - Math.log(be) - lny);
      };
      const width = high - low, eased = Math.min(warm ?? -1.5, high - 0.02 * width);
      const lny = width > 0 ? root(price, Math.max(eased, low + 0.02 * width), slope, low, high) : NaN;
      const fine = Number.isFinite(price(lny)) && Number.isFinite(lnN) && Number.isFinite(lnD);
      if (fine) { warm = lny; slope = root.slope; }
      x[i] = fine ? lnN : fallback.x[i];
      if (!i) first = fine ? { N: Math.exp(lnN), D: Math.exp(lnD) } : null;
    }
    return { x, first };
  }

  /* Everything the page shows, from a state {C, T, U, eps, confidence, inBudget, x (chosen size) or null}. */
  function answer(law, state) {
    const served = state.inBudget ? state.T : 0;
    const t = terrain(law, { C: state.C, U: state.U, served });
    const best = t.optimum();
    const basin = t.basin(best, state.eps);
    const onePercent = state.eps === 0.01 ? { lo: basin.lo, hi: basin.hi } : t.basin(best, 0.01, 1);
    const safe = smallestSafe(basin, state.confidence);
    const chosen = state.x !== null && state.x < t.top(0) ? state.x : safe.x !== null ? safe.x : best.x[0];
    const safePriced = safe.x === null ? null : priced(t, best, safe.x);
    const N = Math.exp(best.x[0]), D = t.tokens(best.x[0]);
    const tokens = new Float64Array(law.size);
    for (let i = 0; i < law.size; i++) tokens[i] = state.C / K * Math.exp(-best.x[i]) - SERVE / K * served;
    const range = ends(best.x);
    const rows = [2, 1, 1 / 2, 1 / 4, 1 / 8, 1 / 16].map(f => best.x[0] + Math.log(f)).filter(x => x < t.top(0));
    const out = {
      N_opt: N, D_opt: D, loss_opt: best.L[0], tokens_per_parameter: D / N,
      N_opt_ci95: range && range.map(Math.exp), D_opt_ci95: ends(tokens), loss_opt_ci95: ends(best.L),
      epochs: state.U === null ? null : D / state.U,
      fresh_share: state.U === null ? null : worth(D, state.U, R_D) / D,
      basin: { eps: state.eps, N_lo: Math.exp(basin.lo[0]), N_hi: Math.exp(basin.hi[0]) },
      basin_1pct: { eps: 0.01, N_lo: Math.exp(onePercent.lo[0]), N_hi: Math.exp(onePercent.hi[0]) },
      smallest_within: {
        eps: state.eps, confidence: state.confidence, probability: safe.share,
        N: safe.x === null ? null : Math.exp(safe.x), surest_N: Math.exp(safe.surest),
        priced: safePriced,
      },
      chosen: { ...(chosen === safe.x ? safePriced : priced(t, best, chosen)), probability: shareWithin(basin, chosen) },
      price_list: rows.map(x => priced(t, best, x)),
      last_decade: priced(t, best, best.x[0] - Math.LN10),
      lifetime: null,
    };
    if (state.T > 0 && !state.inBudget) out.lifetime = lifetime(law, state, best, N, D);
    return { out, t, best, basin };
  }

  function lifetime(law, state, best, N, D) {
    const asTrained = N * (K * D + SERVE * state.T);
    const cheap = cheapestForLoss(law, best.L, state.T, state.U, best);
    const at = cheap.first || { N, D };
    const rich = terrain(law, { C: asTrained, U: state.U, served: state.T });
    const richest = rich.optimum(), total = at.N * (K * at.D + SERVE * state.T);
    const kept = Math.pow((best.L[0] - law.E[0]) / (richest.L[0] - law.E[0]), -1 / law.gamma[0]);
    const exp95 = x => { const e = ends(x); return e && e.map(Math.exp); };
    return {
      same_loss: { N: at.N, D: at.D, N_ci95: exp95(cheap.x), change: total / asTrained - 1, total_flops: total },
      same_total: {
        N: Math.exp(richest.x[0]), D: rich.tokens(richest.x[0]), N_ci95: exp95(richest.x), loss: richest.L[0],
        compute_gain: 1 / kept, total_flops: asTrained,
      },
      floor_N: Math.exp((law.lnA[0] - Math.log(best.L[0] - law.E[0])) / law.alpha[0]),
    };
  }

  function worth(amount, unique, decay) {
    const repeats = Math.max(amount / unique - 1, 0);
    return Math.min(amount, unique) - unique * decay * Math.expm1(-repeats / decay);
  }

  /* log of what e^z times the fed size is worth, over the fed size, on a fine grid: for drawing alone. */
  const FED_STEP = 0.01, FED = Float64Array.from({ length: 1200 }, (_, k) => Math.log(1 - R_N * Math.expm1(-Math.expm1(k * FED_STEP) / R_N)));

  /* How many draws' bowls pass through each cell of a picture: counts [height][width], row 0 on top.
     view: {x0, x1, y0, y1, relative}; relative: y is the excess over each draw's own optimum.
     Each bowl is computed at every fifth column and drawn straight between: width is 5 k + 1. */
  const STRIDE = 5;
  function density(t, best, view, width, height) {
    const law = t.law, counts = new Uint16Array(width * height);
    const { U = null, served = 0 } = t.options, off = SERVE / K * served;
    const nodes = (width - 1) / STRIDE + 1, dx = (view.x1 - view.x0) / (nodes - 1);
    const scale = (height - 1) / (view.y1 - view.y0);
    const lnD = new Float64Array(nodes);  // worth of the tokens at each node, common to all draws
    for (let c = 0; c < nodes; c++) {
      const D = Math.max(t.C_of(0) / K * Math.exp(-(view.x0 + c * dx)) - off, 0);
      lnD[c] = Math.log(U === null ? D : worth(D, U, R_D));
    }
    const straight = U === null && off === 0, lnU = U === null ? 0 : Math.log(U), y = new Float64Array(nodes);
    for (let i = 1; i < law.size; i++) {
      const al = law.alpha[i], be = law.beta[i], E = law.E[i];
      const ratio = (view.relative ? 1 / best.L[i] : 1) * scale, zero = ((view.relative ? 1 : 0) + view.y0) * scale;
      let size = Math.exp(law.lnA[i] - al * view.x0), data = Math.exp(law.lnB[i] - be * lnD[0]);
      const shrink = Math.exp(-al * dx), grow = Math.exp(be * dx);
      const lnFed = U === null ? Infinity : (1 + law.a[i] / law.b[i]) * law.lnG[i] + law.a[i] / law.b[i] * lnU;
      for (let c = 0; c < nodes; c++) {
        const x = view.x0 + c * dx;
        if (x > lnFed) {
          const at = (x - lnFed) / FED_STEP, k = at | 0;
          const more = k + 1 < FED.length ? FED[k] + (at - k) * (FED[k + 1] - FED[k]) : FED[FED.length - 1];
          size = Math.exp(law.lnA[i] - al * (lnFed + more));
        }
        if (!straight) data = Math.exp(law.lnB[i] - be * lnD[c]);
        const up = (E + size + data) * ratio - zero;
        y[c] = height - 1 - (up < 2 * height ? up : 2 * height);
        size *= shrink; data *= grow;
      }
      trace(counts, y, nodes, width, height);
    }
    return counts;
  }

  /* Add one polyline, y in rows at every fifth column; what leaves the picture is cut off. */
  function trace(counts, y, nodes, width, height) {
    let before = Math.round(y[0]);
    for (let c = 0; c < nodes - 1; c++) {
      const step = (y[c + 1] - y[c]) / STRIDE;
      if (y[c] < -1 && y[c + 1] < -1) { before = -2; continue; }
      for (let k = 0; k < STRIDE; k++) {
        const row = Math.round(y[c] + step * k);
        let top = row, bottom = row;
        if (before < row - 1) top = before + 1; else if (before > row + 1) bottom = before - 1;
        if (top < 0) top = 0;
        if (bottom > height - 1) bottom = height - 1;
        for (let at = top * width + c * STRIDE + k; top <= bottom; top++, at += width) counts[at]++;
        before = row;
      }
    }
    const last = Math.round(y[nodes - 1]);
    if (last >= 0 && last < height) counts[last * width + width - 1]++;
  }

  return { makeLaw, terrain, answer, density, priced, root, K };
})();
if (typeof module !== "undefined") module.exports = Engine;
